-- Keeps the changes of one slot being told for some time, and says since when they have been told without a gap.
--
-- KEYS: head. ARGV: how long in milliseconds, a mark that nobody else has. Answers the mark of whoever began.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HGET', KEYS[1], 'watched')
local ends, mark = string.match(known or '', '^(%d+) (%S+)$')
if not ends or tonumber(ends) <= now then
  ends, mark = '0', ARGV[2]
end
local until_then = math.max(tonumber(ends), now + tonumber(ARGV[1]))
redis.call('HSET', KEYS[1], 'watched', string.format('%.0f', until_then) .. ' ' .. mark)
return mark
