// The errors that bezel throws. Torch-free, so that every layer of the library can use them.
//
// A message says what happened, what was found, what was wanted, and what to do about it.
#pragma once

#include <stdexcept>
#include <string>

namespace bezel {

/// Base of every error that a user of the library can cause.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument that contradicts another, or is outside its range.
class ArgumentError : public Error {
 public:
  using Error::Error;
};

/// A hook name that no model knows.
class UnknownHookError : public Error {
 public:
  using Error::Error;
};

/// A hook name that bezel knows but this layer or checkpoint does not have.
class HookNotApplicableError : public Error {
 public:
  using Error::Error;
};

/// A hook that cannot fire in this call, for example beyond stop_at_layer.
class HookNeverFiredError : public Error {
 public:
  using Error::Error;
};

/// A hook returned something that cannot stand in for the value it was given.
class HookResultError : public Error {
 public:
  using Error::Error;
};

/// The values asked for do not fit in the memory at hand.
class CacheTooLargeError : public Error {
 public:
  using Error::Error;
};

/// A checkpoint that cannot be used; the classes below say why.
class CheckpointError : public Error {
 public:
  using Error::Error;
};

/// A file that is damaged or not what its format demands.
class FormatError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

/// A valid checkpoint that asks for something bezel does not compute.
class UnsupportedError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

/// Weights that do not belong to the configuration beside them.
class ModelMismatchError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

/// Input larger than the limits that protect the reader.
class ResourceLimitError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

/// A file of activations that cannot be written, or is damaged, foreign or of another schema.
class StoreError : public Error {
 public:
  using Error::Error;
};

}  // namespace bezel
