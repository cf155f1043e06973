//! Query parameters: comma lists, repeated names, filters (`events.md`, HTTP).

use std::str::FromStr;

use relay_core::events::Question;
use relay_proto::{Filter, Problem, filter::parse_ns};
use relay_store::Order;

/// The parameters of a request, decoded, in their order.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query of a URL; `+` is a space, as forms have it.
    pub fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded: Result<Vec<_>, Problem> = pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(name)?, decode(value)?))
            })
            .collect();
        decoded.map(Self)
    }

    /// The last value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The last value of a parameter as a `T`.
    pub fn parsed<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        self.get(name).map(|text| parse_one(name, text)).transpose()
    }

    /// A switch: absent is off, present without a value is on.
    pub fn switch(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("0" | "false") => Ok(false),
            Some("" | "1" | "true") => Ok(true),
            Some(_) => Err(Problem::invalid(format!("{name} is true or false"))),
        }
    }

    /// All values of a comma list, over all its repetitions.
    pub fn list<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Vec<T>, Problem> {
        self.0
            .iter()
            .filter(|(known, _)| known == name)
            .flat_map(|(_, value)| value.split(',').filter(|part| !part.is_empty()))
            .map(|text| parse_one(name, text))
            .collect()
    }

    fn time(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.get(name)
            .map(|text| {
                parse_ns(text).ok_or_else(|| {
                    Problem::invalid(format!("{name} is unix nanoseconds in decimal digits"))
                })
            })
            .transpose()
    }

    /// The one filter that the parameters make.
    pub fn filter(&self) -> Result<Filter, Problem> {
        if self.get("q").is_some() {
            return Err(Problem::invalid(
                "this relay has no text search ('search' is not among the features of /v1/info)",
            ));
        }
        let mut filter = Filter {
            ids: self.list("ids")?,
            authors: self.list("authors")?,
            kinds: self.list("kinds")?,
            ns: self.list("ns")?,
            since_ns: self.time("since_ns")?,
            until_ns: self.time("until_ns")?,
            ..Filter::default()
        };
        for (name, value) in &self.0 {
            if let Some(tag) = name.strip_prefix("tag.") {
                filter.add_tag(tag, value.split(',').map(str::to_owned));
            }
        }
        Ok(filter)
    }

    /// The whole question of `GET /v1/events`.
    pub fn question(&self) -> Result<Question, Problem> {
        let order = match self.get("order") {
            None | Some("-time") => Order::TimeDescending,
            Some("time") => Order::Time,
            Some("seq") => Order::Seq,
            Some("-seq") => Order::SeqDescending,
            Some(_) => return Err(Problem::invalid("order is seq, -seq, time or -time")),
        };
        let limit = self.parsed::<usize>("limit")?.unwrap_or(100);
        if limit == 0 {
            return Err(Problem::invalid("limit is at least 1"));
        }
        Ok(Question {
            filters: vec![self.filter()?],
            history: self.switch("history")?,
            order,
            limit,
            cursor: self.get("cursor").map(str::to_owned),
        })
    }
}

fn parse_one<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("{name}: {error}")))
}

/// Undoes percent-encoding.
pub(crate) fn decode(text: &str) -> Result<String, Problem> {
    let bad = || Problem::invalid("the URL is not percent-encoded UTF-8");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| (b as char).to_digit(16));
                let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
                out.push((high * 16 + low) as u8);
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_repeat_and_split() {
        let params = Params::parse(Some("kinds=1,2&kinds=3&tag.t=a%2Cb,c&tag.t=d")).unwrap();
        let filter = params.filter().unwrap();
        assert_eq!(filter.kinds, [1, 2, 3]);
        assert_eq!(
            filter.tags,
            [("t".to_owned(), ["a", "b", "c", "d"].map(str::to_owned).to_vec())]
        );
    }

    #[test]
    fn bad_parameters_are_named() {
        for (query, word) in [
            ("kinds=x", "kinds"),
            ("authors=ab", "authors"),
            ("since_ns=-1", "since_ns"),
            ("order=up", "order"),
            ("limit=0", "limit"),
            ("history=maybe", "history"),
            ("ids=%zz", "percent"),
        ] {
            let refused = Params::parse(Some(query)).and_then(|params| params.question());
            assert!(refused.unwrap_err().message.contains(word), "{query}");
        }
    }
}
