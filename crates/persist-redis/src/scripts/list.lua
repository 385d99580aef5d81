-- Some keys of one slot in byte order, without expired ones.
--
-- KEYS: index, expiry. ARGV: now, the lower and the upper bound as ZRANGEBYLEX has them, how many.
-- Answers {"1" if the range is exhausted else "0", the last key looked at or "", key…}.

local index, expiry = KEYS[1], KEYS[2]
local now, from, to, limit = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
-- At most this many keys are looked at in one call, so that a run of expired ones holds nobody up.
local budget = limit + 5000

local mortal = redis.call('EXISTS', expiry) == 1
local answer, last, count = { '1', '' }, '', 0
while count < limit and budget > 0 do
  local wanted = math.min(limit - count, 1000)
  local part = redis.call('ZRANGEBYLEX', index, from, to, 'LIMIT', 0, wanted)
  local ends = mortal and #part > 0 and redis.call('ZMSCORE', expiry, unpack(part))
  for place, member in ipairs(part) do
    if not (ends and ends[place] and tonumber(ends[place]) <= now) then
      count = count + 1
      answer[count + 2] = member
    end
    last = member
  end
  answer[2] = last
  if #part < wanted then return answer end
  budget = budget - #part
  from = '(' .. last
end
answer[1] = '0'
return answer
