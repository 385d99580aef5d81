-- Makes the changes of one or several calls on one slot. Each call is made whole or not at all: value, metadata, version,
-- index and expiry together. What becomes of one does not matter to the others.
--
-- KEYS: head, index, expiry, then one entry for each step of each call.
-- ARGV: client, era, how many calls; then for each of them: latest, now, nonce, how many steps; then for each step:
--   verb condition draft expires lifetime rest count part… [sums]
-- verb: put, delete, touch or check. condition: "any", "absent" or a version. expires: milliseconds since 1970 or "-".
-- lifetime: milliseconds for PEXPIRE or "-". count: of the parts of a value, 0 where there is none; sums stands there only
-- after more than one. What a verb does not need is "-".
--
-- Answers a line for each call, its words separated by tabs: "done" and a word for each step (put VERSION,CREATED; delete
-- 1 or 0; touch the new record or nothing; check 1), or "conflict", the step and the version found or nothing, or "error"
-- and what it is: nothing was done then. LATE: by the clock of the server it is later than the call allows. DAMAGED: there
-- is nothing that a touch could keep. An error FENCED instead of the lines: the era was ended, and no call was made.

local head, index, expiry = KEYS[1], KEYS[2], KEYS[3]
local redis_call, match = redis.call, string.match
local base = string.sub(head, 1, -6)
local NEVER = '-'

local state = redis_call('HMGET', head, 'version', 'fence:' .. ARGV[1], 'watched')
if state[2] and tonumber(ARGV[2]) < tonumber(match(state[2], '^%d+')) then
  return redis.error_reply('FENCED this connection was given up')
end
local time = redis_call('TIME')
local server_now = time[1] * 1000 + time[2] / 1000
-- What the watchers are to be told; nothing if there are none.
local told = state[3] and tonumber(match(state[3], '^%d+') or 0) > server_now and {}
local known_highest = tonumber(state[1] or '0')
local highest = known_highest
-- The call at hand: the present by the clock of its storage, and its mark.
local now, nonce
-- How many expiring entries were brought.
local mortals = 0

-- The versions of this run: above the draft of the client and all that were handed out. They stay below 2^53.
local function next_version(draft)
  local number = tonumber(draft)
  if number > highest then
    highest = number
    return draft
  end
  highest = highest + 1
  return string.format('%.0f', highest)
end

-- The key in the index and for the watchers.
local function member(step)
  return string.sub(step.key, #base + 2)
end

local function ended(expires)
  return expires ~= NEVER and tonumber(expires) <= tonumber(now)
end

-- What is stored. A record that cannot be read counts as version 0, so that it can be overwritten and deleted; how it
-- expires and how many parts it has is not known then.
local function look(key)
  local record = redis_call('HGET', key, 'm')
  if not record then return nil end
  local version, expires, created, parts =
    match(record, '^1 (%d+) (%S+) (%-?%d+) %S+ %-?%d+ %S+ %d+ (%d+) ')
  if not version or not (expires == NEVER or tonumber(expires)) then
    return { version = '0', created = now, live = true, damaged = true }
  end
  return { version = version, expires = expires, created = created, parts = parts, live = not ended(expires), record = record }
end

local function holds(step)
  if step.condition == 'any' then return true end
  local live = step.old and step.old.live
  if step.condition == 'absent' then return not live end
  return live and step.old.version == step.condition
end

local function tell(what, step, record)
  if told then told[#told + 1] = what .. member(step) .. '\0' .. record end
end

local function remove(key, name)
  redis_call('UNLINK', key)
  redis_call('ZREM', index, name)
  redis_call('ZREM', expiry, name)
end

-- Sets the expiry of an entry that is there: in the expiry index, and as the server's own, which is a backstop.
local function expire(step)
  local known = step.old and step.old.expires
  if step.expires ~= NEVER then
    redis_call('ZADD', expiry, step.expires, member(step))
    mortals = mortals + 1
  elseif known ~= NEVER then
    redis_call('ZREM', expiry, member(step))
  end
  if step.lifetime ~= NEVER then
    redis_call('PEXPIRE', step.key, step.lifetime)
  elseif step.old and known ~= NEVER then
    redis_call('PERSIST', step.key)
  end
end

-- Writes the record and, for a put, the value; what has ended by now is removed instead. Answers the record and
-- its version.
local function write(step, created, rest)
  local version = next_version(step.draft)
  local record =
    '1 ' .. version .. ' ' .. step.expires .. ' ' .. created .. ' ' .. nonce .. ' ' .. now .. ' ' .. rest
  if ended(step.expires) then
    remove(step.key, member(step))
    tell('d', step, '')
    return record, version
  end
  if step.count == 0 then
    redis_call('HSET', step.key, 'm', record)
  elseif step.count == 1 then
    redis_call('HSET', step.key, 'm', record, 'v', ARGV[step.from])
  else
    local fields = { 'm', record, 'c', ARGV[step.from + step.count] }
    for part = 0, step.count - 1 do
      fields[#fields + 1] = part
      fields[#fields + 1] = ARGV[step.from + part]
    end
    redis_call('HSET', step.key, unpack(fields))
  end
  expire(step)
  tell('s', step, record)
  return record, version
end

local make = {}

function make.put(step)
  local old = step.old
  -- A value in one piece takes the place of another one; the parts of a longer one have to go.
  if old and not (step.count == 1 and old.parts == '1') then redis_call('UNLINK', step.key) end
  local created = old and old.live and old.created or now
  local _, version = write(step, created, step.rest)
  if not old and not ended(step.expires) then redis_call('ZADD', index, 0, member(step)) end
  return version .. ',' .. created
end

function make.delete(step)
  next_version(step.draft)
  remove(step.key, member(step))
  if not (step.old and step.old.live) then return '0' end
  tell('d', step, '')
  return '1'
end

function make.touch(step)
  local old = step.old
  if not (old and old.live) then return '' end
  return (write(step, old.created, match(old.record, '^%S+ %S+ %S+ %S+ %S+ %S+ (.*)$')))
end

function make.check()
  return '1'
end

-- Reads all entries of a call and checks all conditions before anything is changed.
local function make_all(steps)
  for number, step in ipairs(steps) do
    step.old = look(step.key)
    if step.verb == 'touch' and step.old and step.old.damaged then
      return 'error\tDAMAGED the metadata of the entry cannot be read'
    end
    if not holds(step) then
      return 'conflict\t' .. number .. '\t' .. (step.old and step.old.live and step.old.version or '')
    end
  end
  local words = { 'done' }
  for number, step in ipairs(steps) do
    words[number + 1] = make[step.verb](step)
  end
  return table.concat(words, '\t')
end

local lines, at, entry = {}, 4, 4
for number = 1, tonumber(ARGV[3]) do
  local latest, steps = tonumber(ARGV[at]), {}
  now, nonce = ARGV[at + 1], ARGV[at + 2]
  local count = tonumber(ARGV[at + 3])
  at = at + 4
  for place = 1, count do
    local step = {
      key = KEYS[entry], verb = ARGV[at], condition = ARGV[at + 1], draft = ARGV[at + 2], expires = ARGV[at + 3],
      lifetime = ARGV[at + 4], rest = ARGV[at + 5], count = tonumber(ARGV[at + 6]), from = at + 7, old = false,
    }
    entry = entry + 1
    at = step.from + step.count + (step.count > 1 and 1 or 0)
    steps[place] = step
  end
  if server_now > latest then
    lines[number] = 'error\tLATE this call has come too late'
  else
    local made, line = pcall(make_all, steps)
    lines[number] = made and line or 'error\t' .. line
  end
end
if highest > known_highest then redis_call('HSET', head, 'version', string.format('%.0f', highest)) end

for _, event in ipairs(told or {}) do
  local sent = redis.pcall('PUBLISH', base .. '#events', event)
  if type(sent) == 'table' and sent.err then
    -- This user may not publish. Ending what the watchers rely on lets them know that they have missed something.
    redis_call('HDEL', head, 'watched')
    break
  end
end

-- What brings an expiring entry takes two expired ones away, so that the index cannot outgrow what lives.
if mortals > 0 then
  for _, name in ipairs(redis_call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, 2 * mortals)) do
    remove(base .. '/' .. name, name)
  end
end
return table.concat(lines, '\n')
