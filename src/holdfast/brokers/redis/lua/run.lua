-- Run the operations of the call, and store the output in case the call is repeated.
--
--   :answered:<caller>   the number of the caller's last call and its output; not stored for calls
--                        that only read, so that a full server can still be read

local ANSWER_SECONDS = 300
local READ_OPERATIONS = {
  head = true, page = true, summarize = true, changed_addresses = true, read_feed = true,
  presence_users = true,
}

local answered_key = call.prefix .. ':answered:' .. call.caller
local previous = redis.call('GET', answered_key)
if previous then
  local number, packed = string.match(previous, '^(%d+) (.*)$')
  if tonumber(number) == call.number then return cmsgpack.unpack(packed) end
  -- The network delivers a call that was given up after a later one.
  if call.number < tonumber(number) then return redis.error_reply('ERR this call was given up') end
end

local loaded, outputs, place, only_reads = {}, {}, call.first_operation, true
while place <= #ARGV do
  local name, count = ARGV[place], tonumber(ARGV[place + 1])
  local operation = loaded[name] or operations[name]()
  loaded[name] = operation
  only_reads = only_reads and READ_OPERATIONS[name]
  local head, was_changed = log.head, log.is_changed
  local is_done, output = pcall(operation, unpack(ARGV, place + 2, place + 1 + count))
  if not is_done then
    output = {'error', type(output) == 'table' and output.err or tostring(output)}
    if string.find(output[2], '^OOM') then
      log.head, log.is_changed = head, was_changed  -- a full server refuses the first write
    else
      -- The operation may be half done: its offset counts as used, the addresses are counted again.
      log.addresses, log.is_changed = storage.length('ZCARD', log.key('last')), true
    end
  end
  outputs[#outputs + 1] = output
  place = place + 2 + count
end

if log.is_changed then log.save() end
local output = {
  log.epoch, log.log_id, log.head, log.forks, settings.is_configured and 1 or 0, outputs,
}
if not only_reads then
  redis.call('SET', answered_key, ARGV[3] .. ' ' .. cmsgpack.pack(output), 'EX', ANSWER_SECONDS)
end
return output
