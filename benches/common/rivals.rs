//! nginx and HAProxy as Debian has them, on one worker: passing everything through, and checking keys as
//! one would with them: the SHA-256 of the key looked up, its scope and its own rate checked, the key
//! taken out and its id put in.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::keys::Keys;
use super::process::{PROXY_CORE, Running, free_port, has};
use super::redis::Redis;

/// A rival that runs, and what runs for it.
pub(crate) struct Rival {
    pub(crate) running: Running,
    pub(crate) port: u16,
    redis: Option<Redis>,
}

impl Rival {
    /// Its process, its port, and what has to live as long.
    pub(crate) fn split(self) -> (Running, u16, Option<Redis>) {
        (self.running, self.port, self.redis)
    }
}

/// Files that no one else's client, and so no bench, is to meet.
const CONNECTIONS_MAX: usize = 19_000;

/// Why a rival is not there.
pub(crate) type Missing = &'static str;

pub(crate) fn nginx(folder: &Path, upstream: u16) -> Result<Rival, Missing> {
    if !has("nginx") {
        return Err("nginx is not installed");
    }
    Ok(start_nginx(folder, upstream, "", "", "", None))
}

/// The record of a key comes from a shared dictionary, and into that from Redis.
pub(crate) fn nginx_lua(folder: &Path, upstream: u16, keys: &Keys) -> Result<Rival, Missing> {
    let modules = ["ndk_http_module.so", "ngx_http_lua_module.so"]
        .map(|name| Path::new("/usr/lib/nginx/modules").join(name));
    if !has("nginx") || !modules.iter().all(|module| module.exists()) {
        return Err("nginx or its Lua module (libnginx-mod-http-lua) is not installed");
    }
    if !has("redis-server") {
        return Err("redis-server is not installed");
    }
    std::fs::create_dir_all(folder).unwrap();
    let redis = Redis::start(folder);
    redis.set_all(keys.texts().iter().enumerate().map(|(number, key)| {
        let digest = hex(&Sha256::digest(key.as_bytes()), false);
        (format!("key:{digest}"), record(keys, number))
    }));
    let load: String = modules
        .iter()
        .fold(String::new(), |text, path| text + &format!("load_module {};\n", path.display()));
    std::fs::write(folder.join("keys.lua"), LUA.replace("REDIS_PORT", &redis.port.to_string()))
        .unwrap();
    let size = (keys.len() / 1_000).max(64);
    let http = format!(
        "lua_shared_dict keys {size}m;\nlua_shared_dict rates {size}m;\n\
         lua_package_path \"{}/?.lua;/usr/share/lua/5.1/?.lua;;\";\n\
         init_by_lua_block {{ keys = require \"keys\" }}\n",
        folder.display(),
    );
    let access = "access_by_lua_block { keys() }\n";
    Ok(start_nginx(folder, upstream, &load, &http, access, Some(redis)))
}

/// What the check goes by: an id, and scopes between spaces.
fn record(keys: &Keys, at: usize) -> String {
    format!("{}| read:orders write:orders ", keys.id(at))
}

const LUA: &str = r#"
local ffi = require "ffi"
ffi.cdef [[
typedef struct { unsigned char opaque[128]; } bench_sha256;
int SHA256_Init(bench_sha256 *c);
int SHA256_Update(bench_sha256 *c, const void *data, size_t len);
int SHA256_Final(unsigned char *md, bench_sha256 *c);
]]
local context, digest = ffi.new("bench_sha256"), ffi.new("unsigned char[32]")
local C, byte, format = ffi.C, string.byte, string.format
local records, rates = ngx.shared.keys, ngx.shared.rates
local RATE = 1000000

local function sha256(text)
  C.SHA256_Init(context)
  C.SHA256_Update(context, text, #text)
  C.SHA256_Final(digest, context)
  return ffi.string(digest, 32)
end

-- Redis, spoken by hand: Debian has no client for it.
local function load(hash)
  local name = "key:" .. hash:gsub(".", function(c) return format("%02x", byte(c)) end)
  local socket = ngx.socket.tcp()
  socket:settimeouts(1000, 1000, 1000)
  if not socket:connect("127.0.0.1", REDIS_PORT) then return nil, 503 end
  socket:send("*2\r\n$3\r\nGET\r\n$" .. #name .. "\r\n" .. name .. "\r\n")
  local head = socket:receive("*l")
  if not head or head:sub(1, 1) ~= "$" then return nil, 503 end
  local length, record = tonumber(head:sub(2)), ""
  if length >= 0 then
    record = socket:receive(length)
    socket:receive(2)
  end
  socket:setkeepalive(60000, 64)
  records:set(hash, record, record == "" and 5 or 3600)
  return record
end

return function()
  local header = ngx.var.http_authorization
  if not header or header:sub(1, 7) ~= "Bearer " then return ngx.exit(401) end
  local hash = sha256(header:sub(8))
  local record, problem = records:get(hash), nil
  if not record then
    record, problem = load(hash)
    if problem then return ngx.exit(problem) end
  end
  if record == "" then return ngx.exit(401) end
  local bar = record:find("|", 1, true)
  if not record:find(" read:orders ", bar, true) then return ngx.exit(403) end
  local id = record:sub(1, bar - 1)
  if rates:incr(id, 1, 0, 1) > RATE then return ngx.exit(429) end
  ngx.req.clear_header("Authorization")
  ngx.req.set_header("X-Key-Id", id)
end
"#;

fn start_nginx(
    folder: &Path,
    upstream: u16,
    top: &str,
    http: &str,
    location: &str,
    redis: Option<Redis>,
) -> Rival {
    std::fs::create_dir_all(folder).unwrap();
    let port = free_port();
    let text = format!(
        "{top}daemon off;\nmaster_process off;\nworker_processes 1;\npid nginx.pid;\n\
         error_log stderr error;\nworker_rlimit_nofile 20000;\n\
         events {{ worker_connections {CONNECTIONS_MAX}; }}\nhttp {{\naccess_log off;\n\
         tcp_nodelay on;\nclient_body_temp_path body;\nproxy_temp_path proxy;\n\
         fastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n\
         keepalive_requests 1000000000;\nkeepalive_timeout 600s;\nclient_max_body_size 10m;\n{http}\
         upstream behind {{ server 127.0.0.1:{upstream}; keepalive 512; \
         keepalive_requests 1000000000; }}\nserver {{\nlisten 127.0.0.1:{port} backlog=4096;\n\
         location / {{\n{location}proxy_pass http://behind;\nproxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\nproxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $remote_addr;\n}}\n}}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), text).unwrap();
    let prefix = folder.to_str().unwrap();
    let args = ["-p", prefix, "-c", "nginx.conf", "-e", "stderr"];
    let running = Running::start(PROXY_CORE, "nginx", &args, folder, port);
    Rival { running, port, redis }
}

pub(crate) fn haproxy(folder: &Path, upstream: u16) -> Result<Rival, Missing> {
    if !has("haproxy") {
        return Err("haproxy is not installed");
    }
    Ok(start_haproxy(folder, upstream, "", ""))
}

/// The record of a key comes from a map file, its rate is in a stick table.
pub(crate) fn haproxy_keys(folder: &Path, upstream: u16, keys: &Keys) -> Result<Rival, Missing> {
    if !has("haproxy") {
        return Err("haproxy is not installed");
    }
    std::fs::create_dir_all(folder).unwrap();
    let mut map = String::new();
    for (number, key) in keys.texts().iter().enumerate() {
        let digest = hex(&Sha256::digest(key.as_bytes()), true);
        writeln!(map, "{digest} {}", record(keys, number).replace(' ', ",")).unwrap();
    }
    std::fs::write(folder.join("keys.map"), map).unwrap();
    let map = folder.join("keys.map");
    let rules = format!(
        "http-request set-var(txn.key) req.hdr(authorization),word(2,' '),sha2(256),hex,\
         map_str({})\nhttp-request deny deny_status 401 unless {{ var(txn.key) -m found }}\n\
         http-request deny deny_status 403 unless {{ var(txn.key) -m sub ,read:orders, }}\n\
         http-request set-var(txn.id) var(txn.key),word(1,'|')\n\
         http-request track-sc0 var(txn.id) table rates\n\
         http-request deny deny_status 429 if {{ sc0_http_req_rate gt 1000000 }}\n\
         http-request del-header authorization\n\
         http-request set-header x-key-id %[var(txn.id)]\n",
        map.display()
    );
    let table = format!(
        "backend rates\nstick-table type string len 32 size {} expire 60s store http_req_rate(1s)\n",
        (2 * keys.len()).max(10_000)
    );
    Ok(start_haproxy(folder, upstream, &rules, &table))
}

fn start_haproxy(folder: &Path, upstream: u16, rules: &str, table: &str) -> Rival {
    std::fs::create_dir_all(folder).unwrap();
    let port = free_port();
    let text = format!(
        "global\nnbthread 1\nmaxconn 9000\ndefaults\nmode http\ntimeout connect 5s\n\
         timeout client 600s\ntimeout server 600s\ntimeout http-keep-alive 600s\nhttp-reuse always\n\
         frontend front\nbind 127.0.0.1:{port} backlog 4096\n{rules}option forwardfor\n\
         default_backend behind\nbackend behind\nserver s 127.0.0.1:{upstream} pool-max-conn 1000\n\
         {table}"
    );
    std::fs::write(folder.join("haproxy.cfg"), text).unwrap();
    let running =
        Running::start(PROXY_CORE, "haproxy", &["-db", "-q", "-f", "haproxy.cfg"], folder, port);
    Rival { running, port, redis: None }
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") }.unwrap();
    }
    text
}

/// The first line of what a program says of its version.
pub(crate) fn version(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output();
    let Ok(output) = output else { return "not installed".to_owned() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
