//! `keygate pepper`: which peppers there are, and the way to a new one. Each run looks at where things
//! are and says the next step; what it says is in `pepper/words.rs`.

mod words;

use std::path::{Path, PathBuf};
use std::time::Duration;

use keygate_config::secrets;
use keygate_core::Pepper;
use keygate_core::key::PepperId;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::{self, DEFAULT_CONFIG, PepperCommand};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::first_start::entropy;
use crate::output::{self, Style};

/// How often the fleet is looked at: each gateway tells it of its peppers once a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn run(pepper: &cli::Pepper) -> Result<(), Failure> {
    let (client, style) = (Client::new(&pepper.admin)?, Style::of(&pepper.admin));
    match pepper.command {
        PepperCommand::Status => status(&client, style),
        PepperCommand::Rotate { wait, again } => {
            let file = pepper.admin.config.as_deref();
            let file = file.unwrap_or_else(|| Path::new(DEFAULT_CONFIG));
            rotate(&client, file, Asked { wait, again }, style)
        }
    }
}

/// A pepper as the gateway that was asked sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct View {
    pub(crate) id: String,
    #[serde(rename = "use")]
    pub(crate) role: String,
    pub(crate) live_keys: u64,
    minting: bool,
    gateways_without: Vec<GatewayName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct GatewayName {
    id: String,
    name: String,
}

impl std::fmt::Display for GatewayName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", output::printable(&self.name), output::printable(&self.id))
    }
}

fn status(client: &Client, style: Style) -> Result<(), Failure> {
    let answer = client.send(&Call::get("/v1/peppers"))?;
    let views = views(&answer)?;
    output::print(&match style {
        Style::Json => format!("{answer:#}\n"),
        Style::Ids => views.iter().map(|view| format!("{}\n", view.id)).collect(),
        Style::Table => words::table(&views),
    })?;
    let lacking = views.iter().find(|view| view.live_keys > 0 && !view.gateways_without.is_empty());
    match lacking {
        Some(View { id, live_keys, .. }) => {
            let keys = words::live_keys(*live_keys);
            let why = format!("{keys} made under pepper {id} are unknown to gateways that lack it");
            Err(Failure::new(Exit::Failed, why))
        }
        None => Ok(()),
    }
}

/// The peppers that a gateway shows.
pub(crate) fn views(answer: &Value) -> Result<Vec<View>, Failure> {
    let peppers = answer.get("peppers").cloned().unwrap_or_default();
    serde_json::from_value(peppers).map_err(|_| {
        Failure::new(Exit::Failed, "the answer names no peppers: is that the admin API?")
    })
}

#[derive(Clone, Copy)]
struct Asked {
    wait: bool,
    again: bool,
}

fn rotate(client: &Client, file: &Path, asked: Asked, style: Style) -> Result<(), Failure> {
    let mut said = None;
    loop {
        let place = Place::look(client, file)?;
        let step = place.next_step(asked.again);
        let is_waiting = asked.wait && matches!(step, Step::Spread { .. });
        let step = if step == Step::Make { Step::Name(Made::make(&place.local)?) } else { step };
        if let Step::Choose(paths) = &step {
            return Err(Failure::new(Exit::Failed, place.choose(paths)));
        }
        // While it waits, only what is news.
        if said.as_ref() != Some(&step) {
            output::print(&place.say(&step, style))?;
        }
        if !is_waiting {
            return Ok(());
        }
        said = Some(step);
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Where things are: what the file says, and what the gateways have.
struct Place {
    local: Local,
    views: Vec<View>,
    is_fleet: bool,
}

/// What `gateway.toml` on this machine says.
struct Local {
    file: PathBuf,
    pepper_file: PathBuf,
    previous_files: Vec<PathBuf>,
    /// The current one first.
    ids: Vec<PepperId>,
    /// Peppers beside the current one that the file does not name: one that was made here, and maybe
    /// others that have had their time.
    unnamed: Vec<(PepperId, PathBuf)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    path: PathBuf,
    is_new: bool,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A new pepper.
    Make,
    /// It is there; the file is to name it.
    Name(Made),
    /// Any of these may be it: nobody can tell but the operator.
    Choose(Vec<PathBuf>),
    /// The gateway does not go by the file yet.
    Reload,
    /// Not every gateway has the new one.
    Spread { without: Vec<String>, minting: String },
    /// New keys are made under the new one. Older ones are needed by so many keys, or by none.
    Wait { previous: Vec<(String, u64)> },
}

impl Place {
    fn look(client: &Client, file: &Path) -> Result<Self, Failure> {
        let local = Local::read(file)?;
        let views = views(&client.send(&Call::get("/v1/peppers"))?)?;
        let fleet = client.send(&Call::get("/v1/fleet"))?;
        let is_fleet = fleet.get("store").is_some_and(|store| store == "redis");
        Ok(Self { local, views, is_fleet })
    }

    fn next_step(&self, again: bool) -> Step {
        let ours = self.views.iter().filter(|view| view.role != "missing");
        let running: Vec<&str> = ours.map(|view| &*view.id).collect();
        let written: Vec<String> = self.local.ids.iter().map(ToString::to_string).collect();
        if running != written {
            return Step::Reload;
        }
        let current = self.views.iter().find(|view| view.role == "current");
        if let Some(current) = current.filter(|current| !current.gateways_without.is_empty()) {
            let minting = self.views.iter().find(|view| view.minting);
            return Step::Spread {
                without: current.gateways_without.iter().map(ToString::to_string).collect(),
                minting: minting.map(|view| view.id.clone()).unwrap_or_default(),
            };
        }
        let previous = self.views.iter().filter(|view| view.role == "previous");
        let previous: Vec<_> = previous.map(|view| (view.id.clone(), view.live_keys)).collect();
        if !previous.is_empty() && !again {
            return Step::Wait { previous };
        }
        match &*self.made() {
            [] => Step::Make,
            [path] => Step::Name(Made { path: path.clone(), is_new: false }),
            several => Step::Choose(several.to_vec()),
        }
    }

    /// Peppers that may have been made here and that nothing goes by yet: what a gateway has, or what
    /// keys depend on, was not just made.
    fn made(&self) -> Vec<PathBuf> {
        let is_known = |id: &PepperId| self.views.iter().any(|view| view.id == id.to_string());
        let unknown = self.local.unnamed.iter().filter(|(id, _)| !is_known(id));
        unknown.map(|(_, path)| path.clone()).collect()
    }
}

impl Local {
    fn read(file: &Path) -> Result<Self, Failure> {
        if !file.exists() {
            let why = format!(
                "{} does not exist: run this in the folder of a gateway, or name its file with -c",
                file.display()
            );
            return Err(Failure::new(Exit::Usage, why));
        }
        let keys = keygate_config::load(file).map_err(Failure::Config)?.keys;
        let files = std::iter::once(&keys.pepper_file).chain(&keys.previous_pepper_files);
        let ids = files.map(|path| id_of(path)).collect::<Result<Vec<_>, _>>()?;
        let unnamed = find_unnamed(&keys.pepper_file, &ids);
        let (pepper_file, previous_files) = (keys.pepper_file, keys.previous_pepper_files);
        Ok(Self { file: file.to_owned(), pepper_file, previous_files, ids, unnamed })
    }
}

fn id_of(path: &Path) -> Result<PepperId, Failure> {
    match secrets::load_pepper(path).map_err(anyhow::Error::new)? {
        Some(pepper) => Ok(pepper.id()),
        None => {
            let why = format!(
                "{} does not exist: copy it from the machine that has it, for its owner alone",
                path.display()
            );
            Err(Failure::new(Exit::Failed, why))
        }
    }
}

impl Made {
    /// Makes a pepper beside the current one.
    fn make(local: &Local) -> Result<Self, Failure> {
        let entropy = entropy()?;
        let path = beside(&local.pepper_file, Pepper::new(&entropy).id());
        secrets::write_new_pepper(&path, &entropy).map_err(anyhow::Error::new)?;
        Ok(Self { path, is_new: true })
    }
}

fn beside(pepper_file: &Path, id: PepperId) -> PathBuf {
    pepper_file.with_file_name(format!("pepper.{id}"))
}

/// The peppers that are beside the current one under the name that this command gives, but for these.
fn find_unnamed(pepper_file: &Path, named: &[PepperId]) -> Vec<(PepperId, PathBuf)> {
    let folder = match pepper_file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    let read = |path: PathBuf| {
        let id = path.file_name()?.to_str()?.strip_prefix("pepper.")?.parse::<PepperId>().ok()?;
        let holds_it = secrets::load_pepper(&path).ok()??.id() == id;
        (holds_it && !named.contains(&id)).then_some((id, path))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    // Named as the setting names its neighbour.
    let paths =
        entries.filter_map(|entry| Some(pepper_file.with_file_name(entry.ok()?.file_name())));
    let mut unnamed: Vec<_> = paths.filter_map(read).collect();
    unnamed.sort_unstable();
    unnamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> PepperId {
        Pepper::new(&[byte; 32]).id()
    }

    fn view(byte: u8, role: &str, live_keys: u64, without: &[&str]) -> View {
        let gateway = |name: &&str| GatewayName { id: format!("gw_{name}"), name: (*name).into() };
        View {
            id: id(byte).to_string(),
            role: role.into(),
            live_keys,
            minting: without.is_empty(),
            gateways_without: without.iter().map(gateway).collect(),
        }
    }

    fn place(written: &[u8], views: Vec<View>) -> Place {
        let local = Local {
            file: "gateway.toml".into(),
            pepper_file: "data/pepper".into(),
            previous_files: Vec::new(),
            ids: written.iter().map(|byte| id(*byte)).collect(),
            unnamed: Vec::new(),
        };
        Place { local, views, is_fleet: true }
    }

    #[test]
    fn the_way_to_a_new_pepper_is_the_same_from_wherever_one_looks() {
        let old = || view(1, "current", 5, &[]);
        assert_eq!(place(&[1], vec![old()]).next_step(false), Step::Make);
        // Made, and named nowhere yet: no other is made.
        let made = Made { path: "data/pepper.x".into(), is_new: false };
        let mut waits = place(&[1], vec![old()]);
        waits.local.unnamed = vec![(id(2), made.path.clone())];
        assert_eq!(waits.next_step(false), Step::Name(made));
        // Named in the file, and not reloaded.
        assert_eq!(place(&[2, 1], vec![old()]).next_step(false), Step::Reload);
        // One gateway has it, others do not.
        let views = |live, without: &[&str]| {
            vec![view(2, "current", 0, without), view(1, "previous", live, &[])]
        };
        let spread = Step::Spread {
            without: vec!["b (gw_b)".into(), "c (gw_c)".into()],
            minting: id(1).to_string(),
        };
        assert_eq!(place(&[2, 1], views(5, &["b", "c"])).next_step(false), spread);
        assert_eq!(place(&[2, 1], views(5, &["b", "c"])).next_step(true), spread);
        // All have it.
        let wait = |live| Step::Wait { previous: vec![(id(1).to_string(), live)] };
        assert_eq!(place(&[2, 1], views(5, &[])).next_step(false), wait(5));
        assert_eq!(place(&[2, 1], views(0, &[])).next_step(false), wait(0));
        assert_eq!(place(&[2, 1], views(5, &[])).next_step(true), Step::Make);
        // The old one is dropped in the file, and then in the gateway.
        assert_eq!(place(&[2], views(0, &[])).next_step(false), Step::Reload);
    }

    #[test]
    fn a_pepper_that_was_made_is_found_again_whatever_the_times_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let current = folder.path().join("pepper");
        let made = beside(&current, id(3));
        secrets::write_new_pepper(&made, &[3; 32]).unwrap();
        // Restored from a backup, and so the younger file.
        secrets::write_new_pepper(&current, &[2; 32]).unwrap();
        let found = vec![(id(3), made)];
        assert_eq!(find_unnamed(&current, &[id(2)]), found);
        assert_eq!(find_unnamed(&current, &[id(3), id(2)]), [], "it is named");
        // What is not what its name says was not made by us.
        std::fs::write(beside(&current, id(4)), "00".repeat(32)).unwrap();
        assert_eq!(find_unnamed(&current, &[id(2)]), found);
    }

    #[test]
    fn of_several_peppers_that_may_be_the_new_one_none_is_taken() {
        let unnamed = |byte| (id(byte), beside(Path::new("data/pepper"), id(byte)));
        let mut many = place(&[1], vec![view(1, "current", 5, &[]), view(4, "missing", 2, &["a"])]);
        many.local.unnamed = vec![unnamed(2), unnamed(3), unnamed(4)];
        let both = vec![unnamed(2).1, unnamed(3).1];
        assert_eq!(many.next_step(false), Step::Choose(both), "keys depend on the last");
        // Nor does one that has had its time hide what is waited for.
        let mut waits =
            place(&[2, 1], vec![view(2, "current", 0, &[]), view(1, "previous", 5, &[])]);
        waits.local.unnamed = vec![unnamed(3)];
        assert!(matches!(waits.next_step(false), Step::Wait { .. }));
        assert!(matches!(waits.next_step(true), Step::Name(_)));
    }
}
