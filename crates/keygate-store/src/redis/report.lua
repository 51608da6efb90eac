-- KEYS[1]: the fleet. ARGV: the gateway's id, what it says of itself as JSON up to the time at which
-- it says it, and after how many milliseconds of silence others are forgotten.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local told = ARGV[2] .. string.format('%.0f', now) .. '}'
local is_new = redis.call('HSET', KEYS[1], ARGV[1], told) == 1
-- Each newcomer clears away those that went before it, so they never gather.
if is_new then
  local members = redis.call('HGETALL', KEYS[1])
  for n = 1, #members, 2 do
    local seen = string.match(members[n + 1], '"seen_at":(%d+)')
    if not seen or tonumber(seen) + tonumber(ARGV[3]) < now then
      redis.call('HDEL', KEYS[1], members[n])
    end
  end
end
return redis.status_reply('OK')
