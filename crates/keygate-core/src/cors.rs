//! Which web pages may use a route, and what their browsers are told: the CORS protocol of the Fetch
//! standard (section 3.3). The browser decides by what it is told; nothing here protects a route.

use crate::route::Methods;

/// One route's word on pages of other origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsRules {
    /// In order. None if any page may.
    origins: Option<Box<[Box<str>]>>,
    /// None if whatever the page asks for.
    methods: Option<Box<[Box<str>]>>,
}

/// What the answer to a request says about the page that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// `*`: every page may read it, whichever asked.
    Anyone,
    /// The origin that asked may.
    Asker,
    /// It may not, or there is none.
    Nobody,
}

impl CorsRules {
    /// `origins` and `methods` are nothing where all are allowed. `served` are the methods of the route
    /// itself: a page is told of no other, since another route may say something else.
    #[must_use]
    pub fn new(
        origins: Option<&[Box<str>]>,
        methods: Option<&[Box<str>]>,
        served: &Methods,
    ) -> Self {
        let origins = origins.map(|origins| {
            let mut origins = origins.to_vec();
            origins.sort_unstable();
            origins.into()
        });
        let methods = match (methods, served) {
            (None, Methods::Any) => None,
            (None, Methods::Listed(served)) => Some(served.as_slice().into()),
            (Some(allowed), served) => {
                Some(allowed.iter().filter(|method| served.contains(method)).cloned().collect())
            }
        };
        Self { origins, methods }
    }

    /// What to say about an origin, as the one `Origin` header has it. Origins are compared byte for byte
    /// (Fetch, "CORS check").
    #[must_use]
    pub fn grant(&self, origin: Option<&[u8]>) -> Grant {
        let Some(origins) = &self.origins else { return Grant::Anyone };
        let is_listed =
            |origin: &[u8]| origins.binary_search_by(|one| one.as_bytes().cmp(origin)).is_ok();
        if origin.is_some_and(is_listed) { Grant::Asker } else { Grant::Nobody }
    }

    /// Whether what is said depends on who asks, so that a cache must keep the answers apart.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.origins.is_some()
    }

    /// The methods to tell of; nothing if the one that is asked for is the answer.
    #[must_use]
    pub fn methods(&self) -> Option<&[Box<str>]> {
        self.methods.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boxed(texts: &[&str]) -> Vec<Box<str>> {
        texts.iter().map(|&text| text.into()).collect()
    }

    fn rules(origins: Option<&[&str]>) -> CorsRules {
        CorsRules::new(origins.map(boxed).as_deref(), None, &Methods::Any)
    }

    #[test]
    fn a_listed_origin_is_granted_and_no_other() {
        let rules = rules(Some(&["https://b.example", "https://a.example:8443", "null"]));
        let grant = |origin: &str| rules.grant(Some(origin.as_bytes()));
        for listed in ["https://b.example", "https://a.example:8443", "null"] {
            assert_eq!(grant(listed), Grant::Asker, "{listed}");
        }
        for other in [
            "https://a.example",
            "http://b.example",
            "https://b.example.evil.example",
            "https://evil.example/https://b.example",
            "https://b.example/",
            "HTTPS://B.EXAMPLE",
            "https://b.example https://b.example",
            "",
            "*",
        ] {
            assert_eq!(grant(other), Grant::Nobody, "{other}");
        }
        assert_eq!(rules.grant(None), Grant::Nobody);
        assert!(rules.varies());
    }

    #[test]
    fn where_any_page_may_nothing_depends_on_which() {
        let rules = rules(None);
        assert_eq!(rules.grant(None), Grant::Anyone);
        assert_eq!(rules.grant(Some(b"https://a.example")), Grant::Anyone);
        assert!(!rules.varies());
    }

    #[test]
    fn a_page_is_told_of_the_methods_that_are_both_allowed_and_served() {
        let told = |allowed: Option<&[&str]>, served: &[&str]| {
            let served = match served {
                [] => Methods::Any,
                listed => Methods::Listed(boxed(listed)),
            };
            let rules = CorsRules::new(None, allowed.map(boxed).as_deref(), &served);
            rules.methods().map(|methods| methods.join(" "))
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(told(None, &[]), None);
        assert_eq!(told(None, &["GET", "PUT"]), is("GET PUT"));
        assert_eq!(told(Some(&["GET", "POST"]), &[]), is("GET POST"));
        assert_eq!(told(Some(&["GET", "POST"]), &["POST", "PUT"]), is("POST"));
        assert_eq!(told(Some(&["GET"]), &["POST"]), is(""));
    }

    proptest! {
        /// The naive reading: the origin is in the list.
        #[test]
        fn the_search_finds_what_the_list_holds(
            origins in proptest::collection::vec("https://[ab]{1,3}", 0..8),
            asker in "https://[ab]{1,3}",
        ) {
            let list: Vec<Box<str>> = origins.iter().map(|one| one.as_str().into()).collect();
            let rules = CorsRules::new(Some(&list), None, &Methods::Any);
            let expect = if origins.contains(&asker) { Grant::Asker } else { Grant::Nobody };
            prop_assert_eq!(rules.grant(Some(asker.as_bytes())), expect);
        }

        /// A page never gets to use a method that the route does not serve or the operator does not allow.
        #[test]
        fn no_method_is_told_that_is_not_in_both_lists(
            allowed in proptest::option::of(proptest::collection::vec("[A-D]", 1..4)),
            served in proptest::option::of(proptest::collection::vec("[A-D]", 1..4)),
        ) {
            let list = |texts: &Vec<String>| -> Vec<Box<str>> {
                texts.iter().map(|text| text.as_str().into()).collect()
            };
            let methods = served.as_ref().map_or(Methods::Any, |s| Methods::Listed(list(s)));
            let rules = CorsRules::new(None, allowed.as_ref().map(list).as_deref(), &methods);
            for method in ["A", "B", "C", "D"] {
                let is_in = |l: &Option<Vec<String>>| {
                    l.as_ref().is_none_or(|l| l.iter().any(|one| one == method))
                };
                let told = rules.methods().is_none_or(|all| all.iter().any(|one| **one == *method));
                prop_assert_eq!(told, is_in(&allowed) && is_in(&served), "{}", method);
            }
        }
    }
}
