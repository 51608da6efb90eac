-- KEYS[1]: the name of a key's digest. ARGV[1]: what the names of keys' records begin with.
local digest = redis.call('GET', KEYS[1])
if not digest then
  return false
end
return {redis.call('GET', ARGV[1] .. digest)}
