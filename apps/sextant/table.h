// A table for people: columns as wide as their widest cell, numbers to the right.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace sextant::cli {

class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // Cells may hold several lines. Missing cells are empty.
  void add_row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Cells of the last column are folded at word ends to end before `width`; 0: never.
  std::string render(size_t width = 0) const;
  void print(std::FILE* file = stdout) const;  // folds to the terminal's width when `file` is one

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Characters, not bytes, of UTF-8 text.
size_t display_width(const std::string& text);
// Lines of at most `width` characters, split at spaces and newlines. Words are never cut.
std::vector<std::string> fold(const std::string& text, size_t width);
// Columns of the terminal behind `file`, or 0 when there is none.
size_t terminal_width(std::FILE* file);

}  // namespace sextant::cli
