// How a user names values: exactly, by a glob, or by a predicate.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "bezel/hooks/inventory.h"

namespace bezel::hooks {

using NamePredicate = std::function<bool(const std::string& name)>;

class Selector {
 public:
  /// An exact name, or a glob with * ? [ ] in which * also crosses dots.
  Selector(std::string name) : rule_(std::move(name)) {}    // NOLINT(google-explicit-constructor)
  Selector(const char* name) : rule_(std::string(name)) {}  // NOLINT(google-explicit-constructor)
  Selector(NamePredicate rule) : rule_(std::move(rule)) {}  // NOLINT(google-explicit-constructor)

  /// The values it chooses, in forward order. An exact name that is unknown or absent here, and a
  /// glob or predicate that matches nothing, throw. On-demand values are chosen only by their exact
  /// name or by a glob whose last part is literal ("blocks.*.attn.hook_result").
  std::vector<SiteRow> expand(const Inventory& inventory) const;

  bool is_text() const { return std::holds_alternative<std::string>(rule_); }
  /// For messages: the name or glob in quotes, or "a callable".
  std::string text() const;

 private:
  std::vector<SiteRow> expand_glob(const std::string& glob, const Inventory& inventory) const;
  std::vector<SiteRow> expand_predicate(const NamePredicate& rule,
                                        const Inventory& inventory) const;
  std::variant<std::string, NamePredicate> rule_;
};

}  // namespace bezel::hooks
