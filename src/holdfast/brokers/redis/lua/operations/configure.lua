-- configure: replace the limits of the namespace, from the next call on (settings.lua).
--
-- KEYS    :settings (settings.lua)
-- ARGV    ...  for each limit its name and value
-- Output  1

return function(...)
  redis.call('DEL', call.prefix .. ':settings')
  redis.call('HSET', call.prefix .. ':settings', ...)
  settings.is_configured = true
  return 1
end
