-- The entries of the streams. The id of an entry is <offset>-0; entries.py encodes and decodes the
-- fields, and the script reads those of FIELD_NAMES. Other fields are stored as they came.

local FIELD_NAMES = {b = 'body', s = 'timestamp', k = 'key', x = 'expires_at'}

local entry = {}

-- Read the fields of FIELD_NAMES from a flat list of names and values.
function entry.fields(flat)
  local fields = {}
  for place = 1, #flat, 2 do
    local name = FIELD_NAMES[flat[place]]
    if name then fields[name] = flat[place + 1] end
  end
  return fields
end

-- The id of the entry with an offset (a number).
function entry.id(offset) return storage.integer(offset) .. '-0' end

-- The offset in an id, as text.
function entry.offset(id) return string.match(id, '%d+') end

function entry.is_expired(fields)
  return fields.expires_at and tonumber(fields.expires_at) <= call.now
end

return entry
