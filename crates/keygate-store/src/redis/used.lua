-- KEYS[1]: when keys were last used. ARGV: a key's id and a time in milliseconds, in turns, each key
-- once. Notes each time that is later than what was noted.
local keys = {}
for n = 1, #ARGV, 2 do
  keys[#keys + 1] = ARGV[n]
end
local noted = redis.call('HMGET', KEYS[1], unpack(keys))
local later = {}
for n, key in ipairs(keys) do
  local at = ARGV[2 * n]
  if not noted[n] or tonumber(noted[n]) < tonumber(at) then
    later[#later + 1] = key
    later[#later + 1] = at
  end
end
if #later > 0 then
  redis.call('HSET', KEYS[1], unpack(later))
end
return redis.status_reply('OK')
