-- Who connects says hello: makes the store's description if there is none, and reads it.
-- KEYS[1] meta; ARGV[1] a random id for a new store; ARGV[2] the layout's number.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1],
    'format', ARGV[2], 'id', ARGV[1], 'seq', '0', 'mark', '0000000000000000')
end
local meta = redis.call('HMGET', KEYS[1], 'format', 'id', 'seq', 'mark')
local time = redis.call('TIME')
return { meta, time }
