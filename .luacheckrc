-- `luacheck src`: the Lua of the Redis broker. script.py joins its files; each shared file is then one
-- local table of that name, and `operations` has the files of lua/operations.
std = "lua51"
max_line_length = 105
files["src/holdfast/brokers/redis/lua"] = {
  read_globals = {"redis", "cmsgpack", "KEYS", "ARGV", "operations", "storage", "call", "entry", "feed",
    "idempotency", "reading", "sessions", "presence", "topic_log"},
  globals = {"log", "settings", "reading"},  -- their fields are assigned
}
