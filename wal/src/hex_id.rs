//! Random ids of 128 bits, in every crate of Watershed: one macro makes the type, so that each has the same one text
//! (32 lower-case hexadecimal digits) and the same serialised form. Drawing one is not here.
//!
//! Hidden from the documentation: what a user sees are the ids that it makes.

/// A `u128` as 32 hexadecimal digits where people read it (JSON has no such numbers), as a number elsewhere.
pub mod hex_u128 {
    use std::borrow::Cow;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Exactly 32 lower-case digits: one text for one number, so that names built from it compare as text.
    #[must_use]
    pub fn parse(text: &str) -> Option<u128> {
        let canonical =
            text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        canonical
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
    }

    /// For `#[serde(with = "hex_u128")]`.
    ///
    /// # Errors
    /// What the serialiser gives.
    pub fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&format_args!("{value:032x}"))
        } else {
            value.serialize(serializer)
        }
    }

    /// For `#[serde(with = "hex_u128")]`.
    ///
    /// # Errors
    /// Where it is no number, or no text of 32 lower-case digits.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        if d.is_human_readable() {
            let text = Cow::<'_, str>::deserialize(d)?;
            parse(&text)
                .ok_or_else(|| D::Error::custom("expected 32 lower-case hexadecimal digits"))
        } else {
            u128::deserialize(d)
        }
    }
}

/// Makes an id type of 128 bits and the error of a text that is none: `hex_id! { /// doc
/// pub Name, ParseNameError, "a name id" }`.
#[doc(hidden)]
#[macro_export]
macro_rules! hex_id {
    ($(#[$doc:meta])* $vis:vis $name:ident, $error:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name($vis u128);

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        #[doc = concat!("A text that is not ", $what, ".")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis struct $error;

        impl ::std::fmt::Display for $error {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(concat!($what, " is 32 lower-case hexadecimal digits"))
            }
        }

        impl ::std::error::Error for $error {}

        impl ::std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                $crate::hex_id::hex_u128::parse(text).map(Self).ok_or($error)
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::hex_id::hex_u128::serialize(&self.0, serializer)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                $crate::hex_id::hex_u128::deserialize(d).map(Self)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    hex_id! {
        /// An id.
        TestId, ParseTestIdError, "a test id"
    }

    #[test]
    fn an_id_has_one_text_and_one_form() {
        let id = TestId(0xab);
        assert_eq!(id.to_string(), format!("{:0>32}", "ab"));
        assert_eq!(format!("{id:?}"), format!("TestId({id})"));
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<TestId>(&json).unwrap(), id);
        let long = "0".repeat(33);
        let upper = id.to_string().to_uppercase();
        for bad in [
            "",
            "ab",
            upper.as_str(),
            long.as_str(),
            "+0000000000000000000000000000000",
        ] {
            assert_eq!(bad.parse::<TestId>(), Err(ParseTestIdError), "{bad}");
            assert!(serde_json::from_str::<TestId>(&format!("\"{bad}\"")).is_err());
        }
        let error = ParseTestIdError.to_string();
        assert_eq!(error, "a test id is 32 lower-case hexadecimal digits");
    }
}
