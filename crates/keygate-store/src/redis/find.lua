-- KEYS[1]: a key's record. Answers with it, and with its app and account, whose ids it begins with.
local key = redis.call('GET', KEYS[1])
if not key then
  return false
end
-- Without `k:` and a digest.
local prefix = string.sub(KEYS[1], 1, -35)
local app, account = string.sub(key, 1, 16), string.sub(key, 17, 32)
return {key, redis.call('GET', prefix .. 'a:' .. app), redis.call('GET', prefix .. 'c:' .. account)}
