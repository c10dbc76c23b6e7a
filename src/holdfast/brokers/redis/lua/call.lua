-- The call: one atomic step on a namespace. The script checks the epoch of the log (log.lua), then
-- runs a list of operations in order (run.lua). script.py joins the files of this folder.
--
-- KEYS[1]  prefix     holdfast:<version>:{<namespace>}. Every other key is the prefix, a colon and a
--                     name, so all keys have one hash slot (Redis Cluster specification, hash tags).
-- ARGV[1]  new_epoch  the name of the epoch, if this call begins one
-- ARGV[2]  caller     the name of the calling thread
-- ARGV[3]  number     the number of this call among the calls of the caller, ascending
-- ARGV[4]  now        seconds since the Unix epoch
-- ARGV[5]  onwards    for each operation: its name, the number of its arguments, the arguments
-- Output   {epoch, log_id, head, forks, is_configured, {output of each operation}}. The output of an
--          operation that failed is {'error', text}.
--
-- The header of an operation names its keys without the prefix, and keys of the log also without the
-- log_id between (log.lua). Every call reads :settings, :log, :last and :answered:<caller>.
--
-- A repeated call (same caller, same number) does nothing and has the output of the first.
-- An optional text is passed and stored as '+' and the text, or as '-'.

return {
  prefix = KEYS[1],
  new_epoch = ARGV[1],
  caller = ARGV[2],
  number = tonumber(ARGV[3]),
  now = tonumber(ARGV[4]),
  first_operation = 5,
}
