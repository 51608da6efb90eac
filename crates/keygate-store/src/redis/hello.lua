-- Who connects says hello: makes the store's description if there is none, and reads it.
-- KEYS[1] meta; ARGV[1] a random id for a new store; ARGV[2] the layout's number.
if redis.call('EXISTS', KEYS[1]) == 0 then
  local number, mark = '0', '0000000000000000'
  -- A log that outlived its description goes on: the stream takes no number a second time.
  local log = string.sub(KEYS[1], 1, -5) .. 'log'
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if last then
    number = string.match(last[1], '^%d+')
    for n = 1, #last[2], 2 do
      if last[2][n] == 'm' then
        mark = last[2][n + 1]
      elseif last[2][n] == 'h' then
        redis.call('HSET', KEYS[1], 'link', struct.pack('>I8', number) .. last[2][n + 1])
      end
    end
  end
  redis.call('HSET', KEYS[1], 'format', ARGV[2], 'id', ARGV[1], 'seq', number, 'mark', mark)
end
local meta = redis.call('HMGET', KEYS[1], 'format', 'id', 'seq', 'mark')
local time = redis.call('TIME')
return { meta, time }
