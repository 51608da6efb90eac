-- KEYS[1]: the store's `meta`. Writes something, for whoever then waits until replicas have it and all
-- that was written before it. Answers with 0 if there is no store.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
return redis.call('HINCRBY', KEYS[1], 'settled', 1)
