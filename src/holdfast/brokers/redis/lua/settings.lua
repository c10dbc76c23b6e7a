-- The limits of the namespace, as the last node that started gave them.
--
--   :settings   a hash, written by the operation configure. Without it the defaults apply, and the
--               output of the call says so (is_configured), so that a node writes it again.
--
-- limit, max_bytes, age (seconds, nil: unlimited), total_bytes, max_logs are those of Retention;
-- lifetime, grace (seconds), per_user, total are those of TokenLimits.

local settings = {
  limit = 1000, max_bytes = 16777216, age = 3600, total_bytes = 268435456, max_logs = 100000,
  lifetime = 86400, grace = 60, per_user = 100, total = 50000,
}
local stored = redis.pcall('HGETALL', call.prefix .. ':settings')
for place = 1, #stored, 2 do settings[stored[place]] = tonumber(stored[place + 1]) end
settings.is_configured = stored[1] ~= nil

return settings
