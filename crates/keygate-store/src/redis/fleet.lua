-- KEYS[1]: the fleet. ARGV[1]: the store's `meta`. Answers with the newest change's number, the time in
-- milliseconds, and what each gateway says.
local number = redis.call('HGET', ARGV[1], 'seq')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return {number, string.format('%.0f', now), redis.call('HGETALL', KEYS[1])}
