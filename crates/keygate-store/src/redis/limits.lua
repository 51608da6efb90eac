-- Lends one gateway a part of one party's limits, in one atomic step.
--
-- KEYS[1] holds what the party has used, as MessagePack:
--   l, a   the rate's bucket: units in it, and when that was so (microseconds)
--   q      quotas by unit: e, the window's end (milliseconds), and u, the units lent in it
--   x      until when any of this matters (milliseconds)
--   g      gateways by id: t, when it last asked (milliseconds), d, for how long that counts, n, that
--          question's number, b, the number of its first, o, units of the rate that it holds, w, how
--          many it wanted, s, slots that it holds, q, by unit: e and g, all units that it was lent in
--          that window
-- ARGV[1] is the question as JSON: see limits.rs.
--
-- Never above the limit: a unit leaves the bucket before it is lent, and what gateways hold takes up
-- room in the bucket, so bucket and holdings together never have more than the burst.
-- Returns the time and, for each policy asked for, numbers; or an error if a later question of the same
-- gateway came first.
local ask = cjson.decode(ARGV[1])
local lends, resets = ask.deed == 'lend', ask.deed == 'reset'
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)

local state = { q = {}, g = {} }
local stored = redis.call('GET', KEYS[1])
if stored then
  local is_readable, unpacked = pcall(cmsgpack.unpack, stored)
  if is_readable and type(unpacked) == 'table' and unpacked.q and unpacked.g then
    state = unpacked
  elseif not resets then
    return redis.error_reply('KEYGATE what is stored of these limits cannot be read: reset them')
  end
end

-- The first moment of the next month (days from civil, in years that begin in March).
local function month_end()
  local days = math.floor(now / 86400000) + 719468
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153) + 1
  year = year + era * 400
  if month > 11 then
    month, year = month - 12, year + 1
  end
  era = math.floor(year / 400)
  local rest = year - era * 400
  local first = era * 146097 + rest * 365 + math.floor(rest / 4) - math.floor(rest / 100)
    + math.floor((153 * month + 2) / 5)
  return (first - 719468) * 86400000
end

local mine = state.g[ask.gateway]
if lends and mine and mine.n >= ask.number then
  return redis.error_reply('KEYGATE overtaken')
end

-- What the others hold and want. One that is silent for longer than the lease holds nothing; one that
-- is silent for an hour will come back as a new one.
local others, wanted, slots_taken = 0, 0, 0
for id, other in pairs(state.g) do
  -- The clock was set back.
  other.t = math.min(other.t, now)
  if other.t + other.d < now then
    other.o, other.w, other.s = 0, 0, 0
  end
  if other.t + 3600000 < now then
    state.g[id] = nil
  elseif id ~= ask.gateway or not lends then
    others = others + other.o
    slots_taken = slots_taken + other.s
    -- Who still wants some asks several times a second.
    if other.t + 300 > now then
      wanted = wanted + other.w
    end
  end
end
local is_same_life = mine and mine.b == ask.born

-- What the bucket has by now.
local rate, level = ask.rate, 0
if rate then
  if resets then
    level = rate.burst
  elseif state.l then
    level = state.l + math.max(0, now_us - state.a) * rate.count / rate.period
  else
    -- Nothing is known of it: what the gateway knows counts, should the store have lost it.
    level = math.min(rate.burst, (rate.level or rate.burst * 1000) / 1000)
  end
  -- What goes back was lent and not used, if that lease still counts.
  if lends and is_same_life then
    level = level + math.max(0, math.min(rate.returned, mine.o - ask.held))
  end
  level = math.max(0, math.min(level, rate.burst - others - ask.held) - rate.debt)
end

-- What is left of each window. A clock that was set back stays in the last one.
local windows = {}
for n, quota in ipairs(ask.quotas) do
  local ends = quota.unit == 'month' and month_end()
    or (math.floor(now / quota.length) + 1) * quota.length
  local window = state.q[quota.unit]
  if not window or window.e < ends then
    window = { e = ends, u = 0 }
    state.q[quota.unit] = window
  end
  if resets then
    window.u = 0
  end
  -- What was lent and never arrived comes back; what this server has lost, and what was used in its
  -- absence, counts again.
  local known = is_same_life and mine.q[quota.unit]
  local before = known and known.e == window.e and known.g or 0
  local granted = quota.ends_at == window.e and quota.granted or 0
  if lends then
    window.u = math.max(0, window.u + granted - before)
  end
  windows[n] = { window = window, granted = granted, left = math.max(0, quota.limit - window.u) }
end

local slots, free, allowed = ask.slots, 0, 0
if slots then
  allowed = math.max(0, slots.limit - slots_taken)
  free = math.max(0, allowed - ask.slots_held)
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
local most_wanted = 0
local lent_rate, lent_slots = 0, 0
if rate then
  most_wanted = rate.want
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
  answer[#answer + 1] = allowed
end
if ask.deed == 'look' then
  return answer
end

if rate then
  state.l, state.a = level, now_us
end
local matters = now + ask.lease
if lends then
  local kept = is_same_life and mine.q or {}
  for unit, lent in pairs(lent_quotas) do
    kept[unit] = lent
  end
  state.g[ask.gateway] = {
    t = now,
    d = ask.lease,
    n = ask.number,
    b = ask.born,
    o = ask.held + lent_rate,
    w = most_wanted,
    s = ask.slots_held + lent_slots,
    q = kept,
  }
end
if rate then
  matters = math.max(matters, now + rate.burst * rate.period / rate.count / 1000)
end
for _, window in pairs(state.q) do
  matters = math.max(matters, window.e)
end
state.x = math.ceil(math.max(matters, state.x or 0))
redis.call('SET', KEYS[1], cmsgpack.pack(state), 'PX', state.x - now + 60000)
return answer
