-- Does all that a change may do, in a way that leaves everything as it is. A script that is denied a command in the middle
-- is not undone, so a change is made only by those who may do all of it.
--
-- KEYS: head, index, expiry. Answers OK, or an error NOPERM that names the commands.

local head, index, expiry = KEYS[1], KEYS[2], KEYS[3]
local nothing = string.sub(head, 1, -5) .. 'rights'
local denied = {}
local function try(command, ...)
  local answer = redis.pcall(command, ...)
  local err = type(answer) == 'table' and answer.err or ''
  -- The second is what Redis 7.0 says inside of scripts.
  if string.find(err, 'NOPERM', 1, true) or string.find(err, 'The user executing the script can', 1, true) then
    denied[#denied + 1] = string.lower(command)
  end
end

try('HMGET', head, 'version')
try('HGET', head, 'version')
try('TIME')
try('HDEL', nothing, 'm')
try('PEXPIRE', nothing, 1)
try('PERSIST', nothing)
try('ZADD', index, 'XX', 0, '')
try('ZREM', index, '')
try('ZADD', expiry, 'XX', 0, '')
try('ZRANGEBYSCORE', expiry, 0, 0, 'LIMIT', 0, 0)
try('UNLINK', nothing)
if #denied == 0 then
  try('HSET', nothing, 'm', '')
  try('UNLINK', nothing)
end
if #denied > 0 then
  return redis.error_reply('NOPERM this user may not run ' .. table.concat(denied, ', '))
end
return redis.status_reply('OK')
