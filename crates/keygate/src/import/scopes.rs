//! What other systems call rights (groups, tags, permissions) as scopes.

use std::collections::BTreeMap;

use keygate_core::Scope;

use super::findings::Findings;
use super::record::Place;

/// How words of another system become scopes.
#[derive(Clone, Debug, Default)]
pub(super) struct ScopeRules {
    /// What the operator said about a word. It comes before what the word looks like.
    pub(super) mapped: BTreeMap<String, Vec<Scope>>,
    pub(super) unmapped: Unmapped,
    pub(super) credits: Credits,
}

/// What is done about a key with so many uses left, which are not counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Credits {
    /// It is a problem: the key could be used for ever.
    #[default]
    Refuse,
    Ignore,
}

/// What is done about a word that is no scope and that nothing was said about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Unmapped {
    /// It is a problem: without it a key might do less than it could.
    #[default]
    Refuse,
    /// It is left out.
    Skip,
}

impl ScopeRules {
    /// The scopes that the words stand for, each once. `what` is what the other system calls such a
    /// word.
    pub(super) fn read<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
        what: &str,
        place: Place,
        findings: &mut Findings,
    ) -> Vec<Scope> {
        let mut scopes = Vec::new();
        for word in words {
            match self.stands_for(word) {
                Some(all) => add(&mut scopes, all),
                None if self.unmapped == Unmapped::Skip => {
                    findings.note(place, format!("{what} `{word}` is no scope and is left out"));
                }
                None => findings.problem(
                    place,
                    format!(
                        "{what} `{word}` is no scope: say what it stands for with --group-scope \
                         {word}=read:orders, or leave out all such with --unmapped-groups skip"
                    ),
                ),
            }
        }
        scopes
    }

    /// The scopes that the operator gave these words, if any. Others are not missed.
    pub(super) fn only_mapped<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Vec<Scope> {
        let mut scopes = Vec::new();
        for all in words.into_iter().filter_map(|word| self.mapped.get(word)) {
            add(&mut scopes, all.clone());
        }
        scopes
    }

    fn stands_for(&self, word: &str) -> Option<Vec<Scope>> {
        self.mapped.get(word).cloned().or_else(|| Some(vec![word.parse().ok()?]))
    }
}

pub(super) fn add(scopes: &mut Vec<Scope>, more: Vec<Scope>) {
    for scope in more {
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
}

/// Reads `GROUP=SCOPE`. The scope is what comes after the last `=`: no scope has one.
pub(crate) fn group_scope(text: &str) -> Result<(String, Scope), String> {
    const RULE: &str = "write GROUP=SCOPE, such as partners=read:orders";
    let (group, scope) = text.rsplit_once('=').ok_or(RULE)?;
    if group.is_empty() {
        return Err(RULE.to_owned());
    }
    let scope = scope.parse().map_err(|error| format!("{error}"))?;
    Ok((group.to_owned(), scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(rules: &ScopeRules, words: &[&str]) -> (Vec<String>, Findings) {
        let mut findings = Findings::default();
        let read = rules.read(words.iter().copied(), "group", Place::Line(1), &mut findings);
        (read.iter().map(ToString::to_string).collect(), findings)
    }

    fn rules(unmapped: Unmapped) -> ScopeRules {
        let mut mapped = BTreeMap::new();
        for text in ["partners=read:orders", "partners=write:orders", "read:all=read:*"] {
            let (group, scope) = group_scope(text).unwrap();
            mapped.entry(group).or_insert_with(Vec::new).push(scope);
        }
        ScopeRules { mapped, unmapped, ..ScopeRules::default() }
    }

    #[test]
    fn a_word_is_what_was_said_about_it_or_the_scope_that_it_is() {
        let (read, findings) =
            scopes(&rules(Unmapped::Refuse), &["read:orders", "partners", "read:all"]);
        assert_eq!(read, ["read:orders", "write:orders", "read:*"]);
        assert!(findings.problems().is_empty());
    }

    #[test]
    fn any_other_word_is_a_problem_or_left_out_as_was_asked() {
        let (read, findings) = scopes(&rules(Unmapped::Refuse), &["Gold", "read:a"]);
        assert_eq!(read, ["read:a"]);
        assert!(findings.problems()[0].contains("--group-scope Gold="), "{findings:?}");
        let (_, findings) = scopes(&rules(Unmapped::Skip), &["Gold"]);
        assert!(findings.problems().is_empty() && findings.notes()[0].contains("`Gold`"));
    }

    #[test]
    fn a_mapping_has_two_sides() {
        assert!(group_scope("a=b=read:x").is_ok_and(|(group, _)| group == "a=b"));
        for wrong in ["", "a", "=read:x", "a=", "a=read"] {
            assert!(group_scope(wrong).is_err(), "{wrong}");
        }
    }
}
