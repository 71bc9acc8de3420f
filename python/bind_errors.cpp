// C++ errors → the classes of bezel/errors.py, which also derive from Python's built-ins.
#include "bezel/hooks/error.h"
#include "bind.h"

namespace bezel::python {
namespace {

void raise(const char* name, const std::exception& error) {
  const auto type = py::module_::import("bezel.errors").attr(name);
  py::set_error(type, error.what());
}

void translate(std::exception_ptr pointer) {  // the most derived class first
  try {
    std::rethrow_exception(std::move(pointer));
  } catch (const ArgumentError& error) {
    raise("ArgumentError", error);
  } catch (const UnknownHookError& error) {
    raise("UnknownHookError", error);
  } catch (const HookNotApplicableError& error) {
    raise("HookNotApplicableError", error);
  } catch (const HookNeverFiredError& error) {
    raise("HookNeverFiredError", error);
  } catch (const HookResultError& error) {
    raise("HookResultError", error);
  } catch (const CacheTooLargeError& error) {
    raise("CacheTooLargeError", error);
  } catch (const FormatError& error) {
    raise("FormatError", error);
  } catch (const UnsupportedError& error) {
    raise("UnsupportedError", error);
  } catch (const ModelMismatchError& error) {
    raise("ModelMismatchError", error);
  } catch (const ResourceLimitError& error) {
    raise("ResourceLimitError", error);
  } catch (const CheckpointError& error) {
    raise("CheckpointError", error);
  } catch (const StoreError& error) {
    raise("StoreError", error);
  } catch (const Error& error) {
    raise("Error", error);
  }
}

}  // namespace

void set_python_error(std::exception_ptr pointer) {
  try {
    translate(pointer);
  } catch (py::error_already_set& error) {
    error.restore();
  }
}

void bind_errors(py::module_&) { py::register_local_exception_translator(&translate); }

}  // namespace bezel::python
