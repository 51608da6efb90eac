-- Makes links of the audit log's chain where a change gets its number. The server's own hash is SHA-1.
-- Sums stay far below 2^51, up to where `bit` is exact; `tobit` takes them to 32 bits.
local band, bxor, rol, shift, tobit = bit.band, bit.bxor, bit.rol, bit.rshift, bit.tobit
local round_constants = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}
local sixteen_words = '>' .. string.rep('i4', 16)

local function sha256(text)
  local zeros = string.rep('\0', (55 - #text) % 64)
  local padded = text .. '\128' .. zeros .. struct.pack('>I8', #text * 8)
  local state = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
  }
  for at = 1, #padded, 64 do
    local w = { struct.unpack(sixteen_words, string.sub(padded, at, at + 63)) }
    for n = 17, 64 do
      local x, y = w[n - 15], w[n - 2]
      w[n] = tobit(w[n - 16] + w[n - 7]
        + bxor(rol(x, 25), rol(x, 14), shift(x, 3)) + bxor(rol(y, 15), rol(y, 13), shift(y, 10)))
    end
    local a, b, c, d, e, f, g, h = unpack(state)
    for n = 1, 64 do
      local s = h + bxor(rol(e, 26), rol(e, 21), rol(e, 7)) + bxor(g, band(e, bxor(f, g)))
        + round_constants[n] + w[n]
      local t = bxor(rol(a, 30), rol(a, 19), rol(a, 10)) + bxor(band(a, bxor(b, c)), band(b, c))
      a, b, c, d, e, f, g, h = tobit(s + t), a, b, c, tobit(d + s), e, f, g
    end
    for n, word in ipairs({ a, b, c, d, e, f, g, h }) do
      state[n] = tobit(state[n] + word)
    end
  end
  return struct.pack('>' .. string.rep('i4', 8), unpack(state))
end

