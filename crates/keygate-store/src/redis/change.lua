-- Carries out one change with its number, its entry in the log and its message, or does nothing.
-- KEYS[1]: the store's `meta`. ARGV: the format that the caller writes, the change's mark, its
-- subject, its audit entry, that entry's SHA-256, the length of the log, how many conditions; the
-- conditions; the commands, each after its number of words. `sha256.lua` comes before this.
-- Answers {0} if there is no store of this format, {1, the change's number}, or {2, the first
-- condition that does not hold, the live keys it found}.
local mark, subject = ARGV[2], ARGV[3]
local meta = redis.call('HMGET', KEYS[1], 'format', 'seq', 'mark', 'link')
if meta[1] ~= ARGV[1] then
  return {0}
end

local at = 8
for n = 1, tonumber(ARGV[7]) do
  local check, name = ARGV[at], ARGV[at + 1]
  at = at + 2
  if check == 'absent' then
    if redis.call('EXISTS', name) ~= 0 then
      return {2, n, 0}
    end
  elseif check == 'present' then
    if redis.call('EXISTS', name) == 0 then
      return {2, n, 0}
    end
  elseif check == 'equals' then
    if redis.call('GET', name) ~= ARGV[at] then
      return {2, n, 0}
    end
    at = at + 1
  elseif check == 'type' then
    local found = redis.call('TYPE', name).ok
    if found ~= 'none' and found ~= ARGV[at] then
      return {2, n, 0}
    end
    at = at + 1
  elseif check == 'room' then
    local live = redis.call('ZCOUNT', name, '(' .. ARGV[at], '+inf')
    if live >= tonumber(ARGV[at + 1]) then
      return {2, n, live}
    end
    at = at + 2
  else
    return redis.error_reply('ERR unknown check')
  end
end

-- Numbers are exact up to 2^53. As text they need a format: Lua's own has 14 digits.
local number = string.format('%.0f', tonumber(meta[2]) + 1)
-- The link is that of the newest entry, unless an older gateway wrote that one: then a chain begins.
local newest = struct.pack('>I8', meta[2])
local link = string.rep('\0', 32)
if meta[4] and string.sub(meta[4], 1, 8) == newest then
  link = string.sub(meta[4], 9)
end
local place = struct.pack('>I8', number)
link = sha256(link .. place .. ARGV[5])
local time = redis.call('TIME')
local micros = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
local prefix = string.sub(KEYS[1], 1, -5)
-- First of all writes the one that can fail: an older number than the log's newest, no memory left,
-- a replica. Nothing is written then.
redis.call('XADD', prefix .. 'log', 'MAXLEN', '~', ARGV[6], number .. '-0',
  'm', mark, 'p', meta[3], 't', micros, 's', subject, 'a', ARGV[4], 'h', link)
redis.call('HSET', KEYS[1], 'seq', number, 'mark', mark, 'link', place .. link)
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, last))
  at = last + 1
end
-- Those who cannot be told find it in the log: it must not undo what is written.
redis.pcall('PUBLISH', prefix .. 'changes',
  '1 ' .. number .. ' ' .. mark .. ' ' .. meta[3] .. ' ' .. micros .. ' ' .. subject)
return {1, number}
