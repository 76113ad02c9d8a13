//! How a value stands in a field of a message: alone, in a list, or absent; and the macros by which a message is a list
//! of its fields.

use super::fault::{Fault, Within};

/// A value, and what stands for it on the wire.
pub(in crate::messages) trait Wire: Sized {
    type Proto;
    fn to_proto(&self) -> Self::Proto;
    fn from_proto(proto: Self::Proto) -> Result<Self, Fault>;
}

/// What a field of a message holds. A value that is a message itself must be there; a plain one is 0, false or empty
/// where it was left out.
pub(super) trait Field: Sized {
    type Proto;
    fn put(&self) -> Self::Proto;
    fn take(proto: Self::Proto) -> Result<Self, Fault>;
}

impl<T: Wire> Field for Option<T> {
    type Proto = Option<T::Proto>;

    fn put(&self) -> Self::Proto {
        self.as_ref().map(Wire::to_proto)
    }

    fn take(proto: Self::Proto) -> Result<Self, Fault> {
        proto.map(Wire::from_proto).transpose()
    }
}

impl<T: Wire> Field for Vec<T> {
    type Proto = Vec<T::Proto>;

    fn put(&self) -> Self::Proto {
        self.iter().map(Wire::to_proto).collect()
    }

    fn take(proto: Self::Proto) -> Result<Self, Fault> {
        let elements = proto.into_iter().enumerate();
        elements
            .map(|(index, element)| T::from_proto(element).at(index))
            .collect()
    }
}

impl<T: Field> Field for Box<T> {
    type Proto = T::Proto;

    fn put(&self) -> Self::Proto {
        (**self).put()
    }

    fn take(proto: Self::Proto) -> Result<Self, Fault> {
        T::take(proto).map(Self::new)
    }
}

impl<T: Wire> Wire for Box<T> {
    type Proto = T::Proto;

    fn to_proto(&self) -> Self::Proto {
        (**self).to_proto()
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, Fault> {
        T::from_proto(proto).map(Self::new)
    }
}

/// One field to the wire, and back under its name; `as` names another form than that of its type.
macro_rules! put {
    ($value:expr) => {
        $crate::messages::wire::field::Field::put($value)
    };
    ($value:expr, $form:ident) => {
        $form::put($value)
    };
}

macro_rules! take {
    ($message:ident.$field:ident) => {
        $crate::messages::wire::fault::Within::within(
            $crate::messages::wire::field::Field::take($message.$field),
            stringify!($field),
        )?
    };
    ($message:ident.$field:ident, $form:ident) => {
        $crate::messages::wire::fault::Within::within(
            $form::take($message.$field),
            stringify!($field),
        )?
    };
}

/// Makes a value whose [`Wire`] form is a message a field, which must be there.
macro_rules! message_field {
    ($type:ty) => {
        impl $crate::messages::wire::field::Field for $type {
            type Proto = Option<<Self as $crate::messages::wire::field::Wire>::Proto>;

            fn put(&self) -> Self::Proto {
                Some($crate::messages::wire::field::Wire::to_proto(self))
            }

            fn take(proto: Self::Proto) -> Result<Self, $crate::messages::wire::fault::Fault> {
                $crate::messages::wire::field::Wire::from_proto(
                    proto.ok_or_else($crate::messages::wire::fault::Fault::missing)?,
                )
            }
        }
    };
}

/// A struct whose fields are those of the message of its name; none can be forgotten.
macro_rules! message {
    ($type:ident { $($field:ident $(as $form:ident)?),* $(,)? }) => {
        impl $crate::messages::wire::field::Wire for $type {
            type Proto = $crate::messages::proto::$type;

            fn to_proto(&self) -> Self::Proto {
                let Self { $($field),* } = self;
                $crate::messages::proto::$type { $($field: put!($field $(, $form)?)),* }
            }

            fn from_proto(
                proto: Self::Proto,
            ) -> Result<Self, $crate::messages::wire::fault::Fault> {
                Ok(Self { $($field: take!(proto.$field $(, $form)?)),* })
            }
        }

        message_field!($type);
    };
}

pub(super) use {message, message_field, put, take};
