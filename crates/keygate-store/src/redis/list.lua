-- KEYS[1]: a sorted set of ids. ARGV: where to begin, how many at most, after how many bytes to stop,
-- what the names of the records begin with. With a fifth argument the ids lead to digests, and those,
-- after it, to the records.
-- Answers {whether it stopped for the bytes, the records}: at least one record, if there is one.
local ids = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local records, bytes, room = {}, 0, tonumber(ARGV[3])
for n, id in ipairs(ids) do
  local name = ARGV[4] .. id
  if ARGV[5] then
    name = ARGV[5] .. (redis.call('GET', name) or '')
  end
  local record = redis.call('GET', name)
  records[n] = record
  bytes = bytes + (record and #record or 0)
  if bytes >= room and n < #ids then
    return {1, records}
  end
end
return {0, records}
