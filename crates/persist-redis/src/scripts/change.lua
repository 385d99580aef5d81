-- Makes the changes of one call on one slot, all of them or none: value, metadata, version, index and expiry together.
--
-- KEYS: head, index, expiry, then one entry for each step.
-- ARGV: client, era, latest, now, nonce, then the steps:
--   put     key condition version | draft expires lifetime modified rest count part… [sums]
--   delete  key condition version | draft
--   touch   key condition version | draft expires lifetime modified
--   check   key condition version
-- condition: any, absent or version. expires: milliseconds since 1970 or "-". lifetime: milliseconds for PEXPIRE or "-".
-- sums stands there only where count is not 1.
--
-- Answers {"conflict", step, version found or ""} or {"done", an answer for each step}: put {version, created},
-- delete 1 or 0, touch the new record or nil, check 1. The error FENCED says that nothing was done: the era was ended, or
-- it is later by the clock of the server than the call allows. So does DAMAGED: there is nothing that a touch could keep.

local head, index, expiry = KEYS[1], KEYS[2], KEYS[3]
local client, era, latest, now, nonce = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local NEVER = '-'

local state = redis.call('HMGET', head, 'version', 'fence:' .. client, 'watched')
if state[2] and era < tonumber(string.match(state[2], '^%d+')) then
  return redis.error_reply('FENCED this connection was given up')
end
local time = redis.call('TIME')
local server_now = time[1] * 1000 + time[2] / 1000
if server_now > latest then
  return redis.error_reply('FENCED this call has come too late')
end
-- What the watchers are to be told; nothing if there are none.
local told = state[3] and tonumber(string.match(state[3], '^%d+') or 0) > server_now and {}
local highest = tonumber(state[1] or '0')

-- A number without exponent: versions stay below 2^53.
local function text(number)
  return string.format('%.0f', number)
end

-- What is stored: version, expires, created, nonce, modified, rest and whether it lives. A record that cannot be read
-- counts as version 0, so that it can be overwritten and deleted; how it expires is not known then.
local function look(key)
  local record = redis.call('HGET', key, 'm')
  if not record then return nil end
  local version, expires, created, _, modified, rest =
    string.match(record, '^1 (%d+) (%S+) (%-?%d+) (%S+) (%-?%d+) (.*)$')
  if not version then return { version = '0', expires = '', created = ARGV[4], damaged = record, live = true } end
  local live = expires == NEVER or tonumber(expires) > now
  return { version = version, expires = expires, created = created, modified = modified, rest = rest, live = live }
end

local function holds(step)
  if step.condition == 'any' then return true end
  local live = step.old and step.old.live
  if step.condition == 'absent' then return not live end
  return live and step.old.version == step.expected
end

local function next_version(draft)
  highest = math.max(tonumber(draft), highest + 1)
  return text(highest)
end

local function remove(key, member)
  redis.call('UNLINK', key)
  redis.call('ZREM', index, member)
  redis.call('ZREM', expiry, member)
end

-- Sets the expiry of an entry that is there: in the expiry index, and as the server's own, which is a backstop.
local function expire(step, known)
  if step.expires ~= NEVER then
    redis.call('ZADD', expiry, step.expires, step.member)
  elseif not known or known ~= NEVER then
    redis.call('ZREM', expiry, step.member)
  end
  if step.lifetime ~= NEVER then
    redis.call('PEXPIRE', step.key, step.lifetime)
  elseif known and known ~= NEVER then
    redis.call('PERSIST', step.key)
  end
end

local function tell(what, member, record)
  if told then told[#told + 1] = what .. member .. '\0' .. record end
end

local function ended(expires)
  return expires ~= NEVER and tonumber(expires) <= now
end

local function put(step)
  local old = step.old
  local version = next_version(step.draft)
  local created = old and old.live and old.created or step.modified
  if ended(step.expires) then
    remove(step.key, step.member)
    tell('d', step.member, '')
    return { version, created }
  end
  local record = table.concat({ '1', version, step.expires, created, nonce, step.modified, step.rest }, ' ')
  local fields = { 'm', record }
  if step.count == 1 then
    fields[3], fields[4] = 'v', ARGV[step.from]
  else
    for part = 0, step.count - 1 do
      fields[#fields + 1] = text(part)
      fields[#fields + 1] = ARGV[step.from + part]
    end
    fields[#fields + 1] = 'c'
    fields[#fields + 1] = ARGV[step.from + step.count]
  end
  local known = old and old.expires
  if old and (step.count ~= 1 or redis.call('HLEN', step.key) ~= 2) then
    redis.call('UNLINK', step.key)
  end
  redis.call('HSET', step.key, unpack(fields))
  if not old then redis.call('ZADD', index, 0, step.member) end
  expire(step, known)
  tell('s', step.member, record)
  return { version, created }
end

local function delete(step)
  next_version(step.draft)
  remove(step.key, step.member)
  if not (step.old and step.old.live) then return 0 end
  tell('d', step.member, '')
  return 1
end

local function touch(step)
  local old = step.old
  if not (old and old.live) then return false end
  local version = next_version(step.draft)
  local record = table.concat({ '1', version, step.expires, old.created, nonce, step.modified, old.rest }, ' ')
  if ended(step.expires) then
    remove(step.key, step.member)
    tell('d', step.member, '')
    return record
  end
  redis.call('HSET', step.key, 'm', record)
  expire(step, old.expires)
  tell('s', step.member, record)
  return record
end

local make = { put = put, delete = delete, touch = touch, check = function() return 1 end }

-- Reads all steps and checks all conditions before anything is changed.
local steps, at = {}, 6
for number = 1, #KEYS - 3 do
  local step = {
    verb = ARGV[at], member = ARGV[at + 1], condition = ARGV[at + 2], expected = ARGV[at + 3], key = KEYS[number + 3],
  }
  at = at + 4
  if step.verb == 'put' or step.verb == 'touch' then
    step.draft, step.expires, step.lifetime, step.modified = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    at = at + 4
  end
  if step.verb == 'delete' then
    step.draft, at = ARGV[at], at + 1
  end
  if step.verb == 'put' then
    step.rest, step.count, step.from = ARGV[at], tonumber(ARGV[at + 1]), at + 2
    at = at + 2 + step.count + (step.count == 1 and 0 or 1)
  end
  step.old = look(step.key)
  if step.verb == 'touch' and step.old and step.old.damaged then
    return redis.error_reply('DAMAGED the metadata of the entry cannot be read')
  end
  if not holds(step) then
    return { 'conflict', number, step.old and step.old.live and step.old.version or '' }
  end
  steps[number] = step
end

local answers, changed, mortal = { 'done' }, false, false
for number, step in ipairs(steps) do
  answers[number + 1] = make[step.verb](step)
  changed = changed or step.verb ~= 'check'
  mortal = mortal or (step.expires and step.expires ~= NEVER)
end
if changed then redis.call('HSET', head, 'version', text(highest)) end

for _, event in ipairs(told or {}) do
  local sent = redis.pcall('PUBLISH', string.sub(head, 1, -6) .. '#events', event)
  if type(sent) == 'table' and sent.err then
    -- This user may not publish. Ending what the watchers rely on lets them know that they have missed something.
    redis.call('HDEL', head, 'watched')
    break
  end
end

-- What brings an expiring entry takes two expired ones away, so that the index cannot outgrow what lives.
if mortal then
  local base = string.sub(head, 1, -6)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', expiry, '-inf', ARGV[4], 'LIMIT', 0, 2)) do
    remove(base .. '/' .. member, member)
  end
end
return answers
