// The module pomona._C: exceptions and build facts here, one bind_<chapter>.cpp for everything
// else.
#include "pomona/error.h"
#include "pomona/patterns.h"

#include "bindings.h"

#include <pybind11/stl.h>

namespace py = pybind11;

namespace {

// FileError becomes OSError(errno, message, file name), so Python picks PermissionError,
// FileNotFoundError, ...
void translate_file_error(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const pomona::FileError& error) {
    const py::object os_error = py::reinterpret_borrow<py::object>(PyExc_OSError);
    const py::object value = os_error(error.code().value(), error.what(), error.path.string());
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())), value.ptr());
  }
}

// (name, shape, is_floating)
using ParameterRows = std::vector<std::tuple<std::string, std::vector<int64_t>, bool>>;

std::vector<pomona::Parameter> to_parameters(const ParameterRows& rows) {
  std::vector<pomona::Parameter> parameters;
  for (const auto& [name, shape, is_floating] : rows) {
    parameters.push_back({name, shape, is_floating});
  }
  return parameters;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  py::register_exception<pomona::InvalidArgument>(m, "InvalidArgument", PyExc_ValueError);
  py::register_exception<pomona::CorruptFile>(m, "CorruptFile", PyExc_ValueError);
  py::register_exception_translator(&translate_file_error);

  m.def("version", &pomona::version);
  m.attr("with_cuda") = static_cast<bool>(POMONA_WITH_CUDA);
  m.attr("why_no_cuda") = POMONA_WHY_NO_CUDA;

  // match_rules([(name, shape, is_floating)], patterns) -> index of the deciding pattern for each,
  // or -1
  m.def("match_rules", [](const ParameterRows& rows, const std::vector<std::string>& patterns) {
    return pomona::match_rules(to_parameters(rows), patterns);
  });

  // match_parameters(what, [(name, shape, is_floating)], patterns) -> indices, ascending
  m.def("match_parameters", [](const std::string& what, const ParameterRows& rows,
                               const std::vector<std::string>& patterns) {
    return pomona::match_parameters(what.c_str(), to_parameters(rows), patterns);
  });

  pomona::bindings::bind_format(m);
  pomona::bindings::bind_prune(m);
  pomona::bindings::bind_dsd(m);
  pomona::bindings::bind_quantize(m);
  pomona::bindings::bind_infer(m);
  pomona::bindings::bind_nn(m);
  pomona::bindings::bind_dead(m);
  pomona::bindings::bind_eie(m);
}
