//! Scripts that run within the server, so that each is one atomic step and one round trip. All names
//! that a script uses lie in one hash slot, whether it is given them or makes them.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisResult, Script, ServerErrorKind, ToRedisArgs, Value};

/// One call of a script.
pub(super) struct Call<'a> {
    script: &'a Script,
    command: Cmd,
}

impl<'a> Call<'a> {
    /// A call with its `KEYS[1]`, and about so many arguments and bytes to come.
    pub(super) fn new(script: &'a Script, key: &[u8], arguments: usize, bytes: usize) -> Self {
        let hash = script.get_hash();
        let fixed = "EVALSHA".len() + hash.len() + 1 + key.len();
        let mut command = Cmd::with_capacity(4 + arguments, fixed + bytes);
        command.arg("EVALSHA").arg(hash).arg("1").arg(key);
        Self { script, command }
    }

    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.push(argument);
        self
    }

    pub(super) fn push(&mut self, argument: impl ToRedisArgs) {
        self.command.arg(argument);
    }

    /// Runs it. A server that does not have the script, since it was restarted or told to forget
    /// it, is given it first: it has done nothing then.
    pub(super) async fn run(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        let missing = ErrorKind::Server(ServerErrorKind::NoScript);
        match self.command.query_async(connection).await {
            Err(error) if error.kind() == missing => {
                self.script.load_async(connection).await?;
                self.command.query_async(connection).await
            }
            answer => answer,
        }
    }
}
