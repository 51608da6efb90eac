-- Adds a batch of what was used, once. KEYS[1]: the number of its source's newest batch. ARGV:
-- what names begin with; the batch's number; 1 if those before it are known to be lost; for how many
-- seconds a source is remembered;
-- how many steps are kept, and of each: what its names begin with, the place of the window in its hash,
-- when the hash is forgotten in Unix seconds;
-- how many routes, and their names;
-- how many rows, and of each: the key's id, or nothing for everybody, the place of its route in the list,
-- its counts. Rows of one key follow each other;
-- how many keys were used, and of each: its id, when in Unix milliseconds, the line about it.
-- Answers {what it did, the number there was, how many lines were damaged and begin anew}.
-- All is read and added up before anything is written, so that an error leaves nothing half done.
local prefix, number = ARGV[1], tonumber(ARGV[2])
local had = tonumber(redis.call('GET', KEYS[1]) or '0')
if number <= had then
  return {'had', tostring(had), '0'}
elseif number > had + 1 and ARGV[3] ~= '1' then
  return {'gap', tostring(had), '0'}
end
-- Redis asks only of a script's first write whether there is memory left; and a user who may not expire
-- anything must find out now. Of this nothing stays.
redis.call('HINCRBY', prefix .. 'none', 'n', 0)
redis.call('EXPIREAT', prefix .. 'none', '0')

local at = 4
local function argument()
  at = at + 1
  return ARGV[at]
end
local function list(read)
  local all = {}
  for n = 1, tonumber(argument()) do
    all[n] = read()
  end
  return all
end
local steps = list(function() return {argument(), argument(), argument()} end)
local names = list(argument)

-- Each route's number, new ones after those that there are.
local routes, new_routes = {}, {}
if #names > 0 then
  for n, route in ipairs(redis.call('HMGET', prefix .. 'ur', unpack(names))) do
    if not route then
      route = redis.call('HINCRBY', prefix .. 'un', 'routes', 1)
      new_routes[#new_routes + 1] = names[n]
      new_routes[#new_routes + 1] = string.format('%.0f', route)
    end
    routes[n] = tonumber(route)
  end
end
-- Windows have places below 64, so that a field is one number: the route's, times that, and the place.
for _, step in ipairs(steps) do
  step.fields = {}
  for n, route in ipairs(routes) do
    step.fields[n] = string.format('%.0f', route * 64 + step[2])
  end
end

local damaged = 0
local counts = '^(%d+) (%d+) (%d+) (%d+)(.*)$'
local function sum(old, row)
  if not old then
    return row.line
  end
  local a, b, c, d, refused = string.match(old, counts)
  if not a then
    damaged = damaged + 1
    return row.line
  end
  local e, f, g, h, more = unpack(row.counts)
  local line = string.format('%.0f %.0f %.0f %.0f', a + e, b + f, c + g, d + h)
  if refused == '' and more == '' then
    return line
  end
  local codes, times = {}, {}
  for code, n in string.gmatch(refused .. more, ' (%d+)=(%d+)') do
    if not times[code] then
      codes[#codes + 1] = code
    end
    times[code] = (times[code] or 0) + n
  end
  for _, code in ipairs(codes) do
    line = line .. string.format(' %s=%.0f', code, times[code])
  end
  return line
end

local sums, expiries = {}, {}
local function add(key, rows)
  for _, step in ipairs(steps) do
    local name, fields, is_new = step[1] .. key, {}, false
    for n, row in ipairs(rows) do
      fields[n] = step.fields[row.route]
    end
    local command = {'HSET', name}
    for n, old in ipairs(redis.call('HMGET', name, unpack(fields))) do
      is_new = is_new or not old
      command[2 * n + 1], command[2 * n + 2] = fields[n], sum(old, rows[n])
    end
    sums[#sums + 1] = command
    if is_new then
      expiries[#expiries + 1] = {'EXPIREAT', name, step[3]}
    end
  end
end
local key, rows = nil, {}
for _ = 1, tonumber(argument()) do
  local next_key, route, line = argument(), tonumber(argument()), argument()
  if key and next_key ~= key then
    add(key, rows)
    rows = {}
  end
  key = next_key
  rows[#rows + 1] = {route = route, line = line, counts = {string.match(line, counts)}}
end
if key then
  add(key, rows)
end

local times, lines = {'HSET', prefix .. 'used'}, {'HSET', prefix .. 'uses'}
local uses = list(function() return {argument(), argument(), argument()} end)
if #uses > 0 then
  local ids = {}
  for n, use in ipairs(uses) do
    ids[n] = use[1]
  end
  for n, noted in ipairs(redis.call('HMGET', prefix .. 'used', unpack(ids))) do
    local use = uses[n]
    local at = noted and tonumber(noted)
    if not at or at < tonumber(use[2]) then
      times[#times + 1], times[#times + 2] = use[1], use[2]
      lines[#lines + 1], lines[#lines + 2] = use[1], use[3]
    end
  end
end

redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[4])
if #new_routes > 0 then
  redis.call('HSET', prefix .. 'ur', unpack(new_routes))
end
for _, command in ipairs(sums) do
  redis.call(unpack(command))
end
for _, command in ipairs(expiries) do
  redis.call(unpack(command))
end
if #times > 2 then
  redis.call(unpack(times))
  redis.call(unpack(lines))
end
return {'added', tostring(had), tostring(damaged)}
