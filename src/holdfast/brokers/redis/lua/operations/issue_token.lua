-- issue_token: store a new session with its token.
--
-- KEYS    those of sessions.lua
-- ARGV    session                     a new name for the session
--         hash                        of the token
--         user                        an optional text
--         connection                  that holds the session, or ''
--         data, position, long_poll   see sessions.lua
-- Output  1

return function(session, hash, user, connection, data, position, long_poll)
  sessions.create(session, hash, user, connection, data, position, long_poll)
  return 1
end
