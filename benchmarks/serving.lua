-- wrk -s benchmarks/serving.lua URL -- FILE: posts the file, and prints what came back as one line of JSON.
local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   wrk.headers["Content-Type"] = "application/octet-stream"
   file:close()
   counts = {}
end

function response(status, headers, body)
   counts[status] = (counts[status] or 0) + 1
end

function done(summary, latency, requests)
   local totals = {}
   for _, thread in ipairs(threads) do
      for status, count in pairs(thread:get("counts")) do
         totals[status] = (totals[status] or 0) + count
      end
   end
   local parts = {}
   for status, count in pairs(totals) do
      table.insert(parts, string.format('"%d": %d', status, count))
   end
   local errors = summary.errors
   print(string.format(
      '{"requests_s": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, "codes": {%s}, "broken": %d}',
      summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      table.concat(parts, ", "), errors.connect + errors.read + errors.write + errors.timeout))
end
