-- Run the operations, and remember the answer.

local answered = HUB .. ':answered:' .. ARGV[2]
do
  local before = redis.call('GET', answered)
  if before then
    local number, answer = string.match(before, '^(%d+) (.*)$')
    if number == ARGV[3] then return cmsgpack.unpack(answer) end
    -- A call that was given up, and that the network delivers after a later one: it is too late.
    if tonumber(ARGV[3]) < tonumber(number) then
      return redis.error_reply('ERR this call was given up')
    end
  end
end

-- Operations that change nothing: their answers need not be remembered, so a server that is full can
-- still be read.
local reads = {head = true, page = true, survey = true, changed = true, tail = true, present = true}

local answers, place, is_read = {}, 5, true
while place <= #ARGV do
  local name, count = ARGV[place], tonumber(ARGV[place + 1])
  local operation, head, was_changed = operations[name], log.head, is_changed
  is_read = is_read and reads[name]
  local done, answer = pcall(operation or error, unpack(ARGV, place + 2, place + 1 + count))
  if not done then
    answer = {'error', type(answer) == 'table' and answer.err or tostring(answer)}
    if string.find(answer[2], '^OOM') then
      log.head, is_changed = head, was_changed  -- a full server refuses the first that is written
    else
      -- It may be half done: its offset is used, and the addresses are counted anew.
      log.addresses, is_changed = length('ZCARD', key('last')), true
    end
  end
  answers[#answers + 1] = answer
  place = place + 2 + count
end

if is_changed then save() end
local answer = {log.epoch, log.space, log.head, log.forks, is_configured, answers}
if not is_read then
  redis.call('SET', answered, ARGV[3] .. ' ' .. cmsgpack.pack(answer), 'EX', ANSWER_SECONDS)
end
return answer
