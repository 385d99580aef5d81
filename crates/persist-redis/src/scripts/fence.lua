-- Ends all eras of a client before this one on one slot: what was sent over connections that were given up, and may
-- still lie in a buffer, is refused from now on.
--
-- KEYS: head. ARGV: client, era, now in seconds. Answers the highest version handed out on the slot.

local DAY = 86400
local fields = redis.call('HGETALL', KEYS[1])
for place = 1, #fields, 2 do
  local since = string.match(fields[place + 1], '^%d+ (%d+)$')
  if string.sub(fields[place], 1, 6) == 'fence:' and (not since or tonumber(since) + DAY < tonumber(ARGV[3])) then
    redis.call('HDEL', KEYS[1], fields[place])
  end
end
local known = redis.call('HGET', KEYS[1], 'fence:' .. ARGV[1])
if not known or tonumber(string.match(known, '^%d+')) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'fence:' .. ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
end
return redis.call('HGET', KEYS[1], 'version')
