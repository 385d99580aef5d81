-- Removes expired entries of one slot from value, index and expiry index.
--
-- KEYS: head, index, expiry. ARGV: now, how many at most. Answers how many were removed.

local head, index, expiry = KEYS[1], KEYS[2], KEYS[3]
local base, now = string.sub(head, 1, -6), tonumber(ARGV[1])
local due = redis.call('ZRANGEBYSCORE', expiry, '-inf', ARGV[1], 'LIMIT', 0, tonumber(ARGV[2]))
for _, member in ipairs(due) do
  redis.call('UNLINK', base .. '/' .. member)
end
if #due > 0 then
  redis.call('ZREM', index, unpack(due))
  redis.call('ZREM', expiry, unpack(due))
end
return #due
