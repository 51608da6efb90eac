-- Lends one gateway a part of one party's limits, in one atomic step.
--
-- KEYS[1] holds what the party has used, as MessagePack:
--   l, a   the rate's bucket: units in it, and when that was so (microseconds)
--   q      quotas by unit: e, the window's end (milliseconds), and u, the units lent in it
--   g      gateways by id: t, when it last asked (milliseconds), n, that question's number, o, units of
--          the rate that it holds, w, how many it wanted, s, slots that it holds, q, by unit: e and g,
--          all units that it was lent in that window
-- ARGV[1] is the question as JSON: see limits.rs.
--
-- Never above the limit: a unit leaves the bucket before it is lent, and what gateways hold takes up
-- room in the bucket, so bucket and holdings together never have more than the burst.
-- Returns the time and, for each policy asked for, numbers; or an error if a later question of the same
-- gateway came first.
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
local stored = redis.call('GET', KEYS[1])
local state = stored and cmsgpack.unpack(stored) or { q = {}, g = {} }
local lends, resets = ask.deed == 'lend', ask.deed == 'reset'

local mine = state.g[ask.gateway]
if lends and ask.is_known and mine and mine.n >= ask.number then
  return redis.error_reply('KEYGATE overtaken')
end

-- What the others hold and want. One that is silent for longer than the lease holds nothing.
local others, wanted, slots_taken, gateways = 0, 0, 0, 0
for id, other in pairs(state.g) do
  gateways = gateways + 1
  if other.t + (other.d or 0) < now then
    other.o, other.w, other.s = 0, 0, 0
  end
  if id ~= ask.gateway or not lends then
    others = others + other.o
    slots_taken = slots_taken + other.s
    -- Who still wants some asks several times a second.
    if other.t + 300 > now then
      wanted = wanted + other.w
    end
  end
end

-- What the bucket has by now.
local rate, level = ask.rate, 0
if rate then
  level = rate.burst
  if state.l and not resets then
    level = state.l + math.max(0, now_us - state.a) * rate.count / rate.period
  end
  -- What goes back was lent and not used, if that lease still counts.
  if lends and mine and ask.is_known then
    level = level + math.max(0, math.min(rate.returned, mine.o - rate.held))
  end
  level = math.max(0, math.min(level, rate.burst - others - rate.held) - rate.debt)
end

-- What is left of each window. A clock that was set back stays in the last one.
local windows = {}
for n, quota in ipairs(ask.quotas) do
  local ends = (math.floor(now / quota.length) + 1) * quota.length
  if quota.ends then
    for _, candidate in ipairs(quota.ends) do
      ends = candidate
      if candidate > now then
        break
      end
    end
  end
  local window = state.q[quota.unit]
  if not window or window.e < ends then
    window = { e = ends, u = 0 }
    state.q[quota.unit] = window
  end
  if resets then
    window.u = 0
  end
  local known = mine and mine.q[quota.unit]
  local before = known and known.e == window.e and known.g or 0
  local granted = 0
  if ask.is_known then
    granted = quota.ends_at == window.e and quota.granted or 0
    -- What was lent and never arrived comes back; what this server has lost counts again.
    window.u = math.max(0, window.u + granted - before)
  elseif quota.ends_at == window.e then
    -- Used in our absence by one whose first question this is.
    granted = quota.granted
    window.u = window.u + granted
  end
  windows[n] = { window = window, granted = granted, left = math.max(0, quota.limit - window.u) }
end

local slots, free = ask.slots, 0
if slots then
  free = math.max(0, slots.limit - slots_taken - slots.held)
end

-- All that the request needs, or nothing.
local enough = not (rate and level < rate.need) and not (slots and free < slots.need)
for n, quota in ipairs(ask.quotas) do
  enough = enough and windows[n].left >= quota.need
end

-- Of what there is, each gets as much as it wants among those who want some.
local function share(left, need, want)
  if not lends or not enough then
    return 0
  end
  local part = left
  if want > need and wanted + want > left then
    part = math.floor(left * want / (wanted + want))
  end
  return math.max(need, math.min(want, part))
end

local answer = { now }
local most_wanted = rate and rate.want or 0
local lent_rate, lent_slots = 0, 0
if rate then
  lent_rate = share(math.floor(level), rate.need, rate.want)
  level = level - lent_rate
  answer[#answer + 1] = lent_rate
  answer[#answer + 1] = math.floor(level * 1000)
end
local lent_quotas = {}
for n, quota in ipairs(ask.quotas) do
  local window, granted, left = windows[n].window, windows[n].granted, windows[n].left
  most_wanted = math.max(most_wanted, quota.want)
  local lent = share(left, quota.need, quota.want)
  window.u = window.u + lent
  lent_quotas[quota.unit] = { e = window.e, g = granted + lent }
  answer[#answer + 1] = window.e
  answer[#answer + 1] = lent
  answer[#answer + 1] = math.max(0, left - lent)
end
if slots then
  lent_slots = lends and enough and math.max(slots.need, math.min(slots.want, free)) or 0
  answer[#answer + 1] = lent_slots
  answer[#answer + 1] = free - lent_slots
end
if ask.deed == 'look' then
  return answer
end

if rate then
  state.l, state.a = level, now_us
end
local ttl = ask.lease
if lends then
  local kept = mine and ask.is_known and mine.q or {}
  for unit, lent in pairs(lent_quotas) do
    kept[unit] = lent
  end
  state.g[ask.gateway] = {
    t = now,
    d = ask.lease,
    n = ask.number,
    o = rate and rate.held + lent_rate or 0,
    w = most_wanted,
    s = slots and slots.held + lent_slots or 0,
    q = kept,
  }
end
-- Gateways come and go; of those that went long ago nobody will ask again.
if gateways > 64 then
  for id, other in pairs(state.g) do
    if other.t + 600000 < now then
      state.g[id] = nil
    end
  end
end
if rate then
  ttl = math.max(ttl, rate.burst * rate.period / rate.count / 1000)
end
for _, window in pairs(state.q) do
  ttl = math.max(ttl, window.e - now)
end
redis.call('SET', KEYS[1], cmsgpack.pack(state), 'PX', math.ceil(ttl) + 60000)
return answer
