// What is being done, for one who waits: a bar on a terminal, a line for each phase elsewhere.
#pragma once

#include <cstdio>
#include <string>

namespace bezel::verify {

class Progress {
 public:
  /// So many phases are to run, over all models.
  Progress(std::FILE* out, std::size_t n_phases);

  /// A phase begins: "P2 hooks" of "nano".
  void begin(const std::string& model, const std::string& phase);
  /// What goes on in it. Nothing where the output is no terminal.
  void show(const std::string& model, const std::string& what);
  /// Makes room for other lines.
  void clear() const;

 private:
  std::FILE* out_;
  bool is_terminal_;
  std::size_t n_phases_, n_begun_ = 0;
};

/// n of all as a bar of so many columns.
std::string bar(std::size_t n, std::size_t all, std::size_t n_columns);

}  // namespace bezel::verify
