-- KEYS[1]: a sorted set of ids. ARGV: where to begin, how many at most, what the names of the records
-- begin with. With a fourth argument the ids lead to digests, and those, after it, to the records.
local ids = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local records = {}
for n, id in ipairs(ids) do
  local name = ARGV[3] .. id
  if ARGV[4] then
    name = ARGV[4] .. (redis.call('GET', name) or '')
  end
  records[n] = redis.call('GET', name)
end
return records
