-- KEYS[1]: how many keys that never expire were made with each pepper. ARGV: what the names of the
-- sets of keys that do expire begin with, and the time. Answers with each pepper that has live keys,
-- and how many.
local counts = redis.call('HGETALL', KEYS[1])
local live = {}
for n = 1, #counts, 2 do
  local expiring = redis.call('ZCOUNT', ARGV[1] .. counts[n], '(' .. ARGV[2], '+inf')
  local count = tonumber(counts[n + 1]) + expiring
  if count > 0 then
    live[#live + 1] = counts[n]
    live[#live + 1] = count
  end
end
return live
