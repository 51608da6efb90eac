-- KEYS[1]: how many keys that never expire were made with each pepper. ARGV: what the names of the
-- sets of keys that do expire begin with, and the time. Answers with the peppers of live keys.
local counts = redis.call('HGETALL', KEYS[1])
local live = {}
for n = 1, #counts, 2 do
  local pepper = counts[n]
  local lasting = tonumber(counts[n + 1]) > 0
  if lasting or redis.call('ZCOUNT', ARGV[1] .. pepper, '(' .. ARGV[2], '+inf') > 0 then
    live[#live + 1] = pepper
  end
end
return live
