//! The suite's cases as it numbers them (`6.4.3`), and patterns that choose among them. Knows no case's content.

use std::fmt;
use std::str::FromStr;

/// A case: two or three numbers, in the suite's order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseId(Vec<u16>);

/// Some of the cases: `9.*` is a section, `1.*.8` the eighth of each of its groups, `*` all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Option<u16>>);

/// A text that is neither.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither a case (6.4.3) nor a pattern of cases (6.*)")]
pub struct NoCase(String);

impl CaseId {
    /// The case of that number within a group (`6.4`).
    #[must_use]
    pub fn within(&self, number: u16) -> Self {
        Self([&self.0[..], &[number]].concat())
    }

    /// Its first number.
    pub fn section(&self) -> u16 {
        self.0[0]
    }
}

impl Pattern {
    /// Whether it chooses that case.
    pub fn chooses(&self, case: &CaseId) -> bool {
        let rest = matches!(self.0.last(), Some(None)) && self.0.len() <= case.0.len();
        let same = |(wanted, is): (&Option<u16>, &u16)| wanted.is_none_or(|wanted| wanted == *is);
        (rest || self.0.len() == case.0.len()) && self.0.iter().zip(&case.0).all(same)
    }
}

impl FromStr for CaseId {
    type Err = NoCase;

    fn from_str(text: &str) -> Result<Self, NoCase> {
        let numbers = text.split('.').map(|number| number.parse().ok());
        numbers.collect::<Option<_>>().map(Self).ok_or_else(|| NoCase(text.to_owned()))
    }
}

impl FromStr for Pattern {
    type Err = NoCase;

    fn from_str(text: &str) -> Result<Self, NoCase> {
        let parts = text.split('.').map(|part| match part {
            "*" => Some(None),
            number => number.parse().ok().map(Some),
        });
        parts.collect::<Option<_>>().map(Self).ok_or_else(|| NoCase(text.to_owned()))
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts =
            self.0.iter().map(|part| part.map_or_else(|| "*".to_owned(), |number| number.to_string()));
        f.write_str(&parts.collect::<Vec<_>>().join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose() {
        let chosen = |pattern: &str, case: &str| {
            pattern.parse::<Pattern>().unwrap().chooses(&case.parse::<CaseId>().unwrap())
        };
        for (pattern, case) in
            [("*", "2.1"), ("*", "12.1.3"), ("9.*", "9.1.1"), ("2.1", "2.1"), ("1.*.8", "1.2.8")]
        {
            assert!(chosen(pattern, case), "{pattern} {case}");
        }
        // What the suite's own patterns do: `1.*` there is a regular expression and finds 12.1.1 for `1*`.
        for (pattern, case) in
            [("1.*", "12.1.1"), ("2.1", "2.10"), ("1.*.8", "1.2.7"), ("9.1", "9.1.1"), ("2.1.*", "2.1")]
        {
            assert!(!chosen(pattern, case), "{pattern} {case}");
        }
        assert!(
            "1*".parse::<Pattern>().is_err()
                && "".parse::<CaseId>().is_err()
                && "7.x".parse::<CaseId>().is_err()
        );
    }

    #[test]
    fn cases_are_in_the_suites_order() {
        let mut cases = ["10.1.1", "2.10", "2.9", "6.4.3"].map(|text| text.parse::<CaseId>().unwrap());
        cases.sort();
        assert_eq!(cases.map(|case| case.to_string()), ["2.9", "2.10", "6.4.3", "10.1.1"]);
    }
}
