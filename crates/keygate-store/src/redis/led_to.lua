-- KEYS[1]: what leads to a record, such as from a key's id to its digest. ARGV[1]: what the names of
-- such records begin with. Answers with the record alone.
local to = redis.call('GET', KEYS[1])
if not to then
  return false
end
return {redis.call('GET', ARGV[1] .. to)}
