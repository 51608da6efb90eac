//! What a bench was asked (`name=value` among its arguments), and where its figures go: to the terminal,
//! and as CSV into the folder of a run if there is one (`out=`).

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

pub(crate) struct Options(Vec<String>);

impl Options {
    pub(crate) fn read() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
    }

    pub(crate) fn get<T: FromStr>(&self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|_| panic!("{name}={text} cannot be read"))
    }

    /// A list with commas.
    pub(crate) fn list<T: FromStr>(&self, name: &str) -> Option<Vec<T>> {
        let read = |part: &str| {
            part.trim().parse().unwrap_or_else(|_| panic!("{name}: {part} cannot be read"))
        };
        self.text(name).map(|text| text.split(',').map(read).collect())
    }

    /// Raw figures of this bench, one row at a time.
    pub(crate) fn table(&self, name: &str, columns: &str) -> Table {
        let file = self.text("out").map(|folder| {
            std::fs::create_dir_all(folder).expect("the run's folder can be made");
            let path = PathBuf::from(folder).join(format!("{name}.csv"));
            let fresh = !path.exists();
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            if fresh {
                writeln!(file, "{columns}").unwrap();
            }
            file
        });
        Table(file)
    }
}

/// A CSV file, or nothing.
pub(crate) struct Table(Option<std::fs::File>);

impl Table {
    /// No cell has a comma in it.
    pub(crate) fn row(&mut self, cells: &[String]) {
        if let Some(file) = &mut self.0 {
            writeln!(file, "{}", cells.join(",")).unwrap();
        }
    }
}
