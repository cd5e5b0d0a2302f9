-- The scripts run inside Redis: Lua 5.1 with these globals and no others.
std = "lua51"
read_globals = { "redis", "cjson", "cmsgpack", "bit", "struct", "KEYS", "ARGV" }
-- As in the rest of the project.
max_line_length = 128
