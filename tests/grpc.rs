//! gRPC through the gateway, with a real client and a real service: each kind of call, what comes
//! with it and after it, how it fails, and how either side gives up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tonic::Code;

use crate::harness::grpc::{Caller, Note, Notes, note};
use crate::harness::{
    Authority, Gateway, Key, KeySpec, Nginx, Setup, Signed, eventually, free_address, patience,
};

const ROUTE: &str = "name = \"notes\"\npath = \"/notes.Notes\"\nupstream = \"main\"\n\
                     auth = \"key\"\nenvironment = \"live\"\nscopes = [\"read:notes\"]";

struct Lab {
    notes: Notes,
    gateway: Gateway,
    key: Key,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn start(settings: &str) -> Self {
        let notes = Notes::start();
        let setup = Setup::in_front_of_address(notes.address).route(ROUTE);
        let settings = format!("protocol = \"http2\"\n{settings}");
        let tables = "[tiers.slow]\nrate = \"1/m\"\nburst = 1\n";
        let gateway = setup.upstream(&settings).tables(tables).start();
        let key = gateway.key_with(&KeySpec::new(&["read:notes"]));
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        Self { notes, gateway, key, runtime }
    }

    /// Runs a client that has a key.
    #[track_caller]
    fn call<T>(&self, calls: impl AsyncFnOnce(Caller) -> T) -> T {
        self.call_with(Some(&self.key.key), calls)
    }

    #[track_caller]
    fn call_with<T>(&self, key: Option<&str>, calls: impl AsyncFnOnce(Caller) -> T) -> T {
        let address = self.gateway.proxy;
        self.runtime.block_on(async {
            let run = async { calls(Caller::connect(address, key).await).await };
            tokio::time::timeout(patience(), run).await.expect("in time")
        })
    }

    #[track_caller]
    fn all_ended(&self) {
        eventually("the service has no call left", || {
            (self.notes.record.open.load(Ordering::SeqCst) == 0).then_some(())
        });
    }
}

#[test]
fn each_kind_of_call_goes_through_with_what_comes_with_it() {
    let lab = Lab::start("");
    lab.call(async |caller| {
        let answer = caller.say(note("hello", 1)).await.unwrap();
        assert_eq!(answer.metadata().get("x-reply").unwrap(), "yes");
        assert!(answer.metadata().contains_key("x-request-id"));
        assert_eq!(answer.into_inner(), note("hello", 2));
        let large = "x".repeat(3 << 20);
        assert_eq!(caller.say(note(&large, 7)).await.unwrap().into_inner(), note(&large, 8));

        let notes = stream::iter((1..=1000).map(|number| note("ten bytes.", number)));
        let sum = caller.sum(notes).await.unwrap().into_inner();
        assert_eq!(sum, note("10000", 500_500));
        assert_eq!(caller.sum(stream::empty()).await.unwrap().into_inner(), note("0", 0));

        let counted = caller.count(note("", 1000)).await.unwrap().into_inner();
        let numbers: Vec<u32> = counted.map(|next| next.unwrap().number).collect().await;
        assert!(numbers.into_iter().eq(0..1000));
        let mut none = caller.count(note("", 0)).await.unwrap().into_inner();
        assert_eq!(none.message().await.unwrap(), None);
    });
    let told = lab.notes.record.last();
    assert_eq!(told.get("x-ours").unwrap(), "from the client");
    assert_eq!(told.get_bin("x-ours-bin").unwrap().to_bytes().unwrap(), &[0, 255, 10, 13][..]);
    assert_eq!(told.get("x-keygate-key-id").unwrap(), &*lab.key.id);
    assert!(told.get("authorization").is_none(), "the key went on to the service");
    assert_eq!(told.get("te").unwrap(), "trailers");
    lab.all_ended();
}

#[test]
fn both_sides_of_a_conversation_are_heard_at_once() {
    let lab = Lab::start("");
    lab.call(async |caller| {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Note>(1);
        let notes = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|next| (next, receiver))
        });
        // The service answers the first before the second is said.
        sender.send(note("turn", 0)).await.unwrap();
        let mut answers = caller.talk(notes).await.unwrap().into_inner();
        for turn in 0..100 {
            let heard = answers.message().await.unwrap().expect("an answer before the end");
            assert_eq!(heard, note("turn", turn * 10 + 1));
            sender.send(note("turn", (turn + 1) * 10)).await.unwrap();
        }
        drop(sender);
        assert_eq!(answers.message().await.unwrap(), Some(note("turn", 1001)));
        assert_eq!(answers.message().await.unwrap(), None);
    });
    lab.all_ended();
}

#[test]
fn a_services_own_errors_arrive_whole_whenever_they_come() {
    let lab = Lab::start("");
    let check = |status: tonic::Status| {
        assert_eq!(
            (status.code(), status.message()),
            (Code::FailedPrecondition, "not like this: ü %")
        );
        assert_eq!(status.metadata().get("x-detail").unwrap(), "of the refusal");
    };
    lab.call(async |caller| {
        check(caller.say(note("fail", 0)).await.unwrap_err());
        let mut counted = caller.count(note("fail", 3)).await.unwrap().into_inner();
        for number in 0..3 {
            assert_eq!(counted.message().await.unwrap(), Some(note("counted", number)));
        }
        check(counted.message().await.unwrap_err());
        // While the client is still speaking.
        let endless = || stream::iter([note("", 1), note("fail", 0)]).chain(stream::pending());
        check(caller.sum(endless()).await.unwrap_err());
        let mut talk = caller.talk(endless()).await.unwrap().into_inner();
        assert_eq!(talk.message().await.unwrap(), Some(note("", 2)));
        check(talk.message().await.unwrap_err());
        let unknown = caller.say(note("still", 1)).await.unwrap();
        assert_eq!(unknown.into_inner(), note("still", 2));
    });
    lab.all_ended();
}

#[test]
fn what_the_gateway_refuses_is_a_status_and_reaches_no_service() {
    let lab = Lab::start("");
    let other = lab.gateway.key(&["read:orders"]);
    let made_up = format!("sk_live_{}", "1".repeat(50));
    for (key, code, message) in [
        (None, Code::Unauthenticated, "api_key_missing"),
        (Some(&*made_up), Code::Unauthenticated, "api_key_invalid"),
        (Some(&*other), Code::PermissionDenied, "permission_denied"),
    ] {
        lab.call_with(key, async |caller| {
            let endless = || stream::repeat(note("more", 1));
            for status in [
                caller.say(note("hello", 1)).await.unwrap_err(),
                caller.count(note("hello", 1)).await.unwrap_err(),
                caller.sum(endless()).await.unwrap_err(),
                caller.talk(endless()).await.unwrap_err(),
            ] {
                assert_eq!((status.code(), status.message()), (code, message));
            }
        });
    }
    let slow = lab.gateway.key_with(&KeySpec::new(&["read:notes"]).with("tier", "slow".into()));
    let before = lab.notes.record.count();
    assert_eq!(before, 0);
    lab.call_with(Some(&slow.key), async |caller| {
        caller.say(note("hello", 1)).await.unwrap();
        let status = caller.say(note("hello", 1)).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::ResourceExhausted, "rate_limit_exceeded")
        );
    });
    assert_eq!(lab.notes.record.count(), 1);
}

#[test]
fn a_deadline_and_a_client_that_gives_up_reach_the_service() {
    let lab = Lab::start("");
    lab.call(async |caller| {
        let limit = Duration::from_millis(200);
        let late = caller.say_with(note("hang", 0), |request| request.set_timeout(limit));
        let status = late.await.unwrap_err();
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    });
    assert_eq!(lab.notes.record.last().get("grpc-timeout").unwrap(), "200000u");
    lab.all_ended();
    lab.call(async |caller| {
        let hanging = [caller.clone(), caller.clone()]
            .map(|caller| tokio::spawn(async move { caller.say(note("hang", 0)).await }));
        let mut counting = caller.count(note("hang", 2)).await.unwrap().into_inner();
        assert_eq!(counting.message().await.unwrap(), Some(note("counted", 0)));
        while lab.notes.record.open.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        hanging.iter().for_each(tokio::task::JoinHandle::abort);
        drop(counting);
        // Others on the same connections go on.
        assert_eq!(caller.say(note("hello", 1)).await.unwrap().into_inner(), note("hello", 2));
        while lab.notes.record.open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_service_that_dies_is_a_status_and_not_a_silence() {
    let mut lab = Lab::start("");
    let (caller, mut counting) = lab.call(async |caller| {
        let mut counting = caller.count(note("hang", 1)).await.unwrap().into_inner();
        assert_eq!(counting.message().await.unwrap(), Some(note("counted", 0)));
        (caller, counting)
    });
    lab.notes.kill();
    lab.runtime.block_on(async {
        let broken = tokio::time::timeout(patience(), counting.message()).await.expect("in time");
        assert!(broken.is_err(), "{broken:?}");
        let status = caller.say(note("hello", 1)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "upstream_error"));
    });
}

#[test]
fn more_calls_than_streams_of_a_connection_take_further_connections() {
    let lab = Lab::start("http2_streams_max = 4");
    lab.call(async |caller| {
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let caller = caller.clone();
                tokio::spawn(async move { caller.say(note("hang", 0)).await })
            })
            .collect();
        while lab.notes.record.open.load(Ordering::SeqCst) < 20 {
            assert!(calls.iter().all(|call| !call.is_finished()), "a call ended early");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        calls.into_iter().for_each(|call| call.abort());
    });
    lab.all_ended();
}

#[test]
fn over_tls_on_both_sides_it_is_the_same() {
    let authority = Authority::new("one");
    let Signed { certificate, key } = authority.sign(&["localhost", "127.0.0.1"]);
    let notes = Notes::start();
    // nginx ends TLS in front of the service.
    let tls = Nginx::start(
        "ssl http2",
        &format!(
            "ssl_certificate {certificate:?};\nssl_certificate_key {key:?};\n\
             location / {{ grpc_pass grpc://{}; grpc_read_timeout 60s; }}",
            notes.address
        ),
    );
    let listen = free_address();
    let tables = format!(
        "[[server.tls]]\nlisten = [\"{listen}\"]\n\
         certificates = [{{ cert_file = {certificate:?}, key_file = {key:?} }}]\n\
         [upstreams.main.tls]\nca_file = {:?}\n",
        authority.file()
    );
    for protocol in ["http2", "auto"] {
        let setup = Setup::in_front_of_address(tls.address()).route(ROUTE).tables(&tables);
        let gateway = setup.upstream(&format!("protocol = \"{protocol}\"")).start();
        let granted = gateway.key(&["read:notes"]);
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let calls = async {
            let caller = Caller::connect_tls(listen, &authority.file(), Some(&granted)).await;
            assert_eq!(caller.say(note("hello", 1)).await.unwrap().into_inner(), note("hello", 2));
            let status = caller.say(note("fail", 0)).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition);
            let talk = caller.talk(stream::iter((0..50).map(|at| note("turn", at)))).await.unwrap();
            let heard: Vec<u32> =
                talk.into_inner().map(|next| next.unwrap().number).collect().await;
            assert!(heard.into_iter().eq(1..51));
            let stranger = Caller::connect_tls(listen, &authority.file(), None).await;
            let status = stranger.say(note("hello", 1)).await.unwrap_err();
            assert_eq!(
                (status.code(), status.message()),
                (Code::Unauthenticated, "api_key_missing")
            );
        };
        runtime.block_on(async { tokio::time::timeout(patience(), calls).await.expect("in time") });
    }
}
