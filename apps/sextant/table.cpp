// Lays out columns by the width that a terminal shows.
#include "table.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace sextant::cli {
namespace {

constexpr size_t kGap = 2;             // between columns
constexpr size_t kNarrowestFold = 24;  // a last column is never squeezed below this

void append_padded(std::string& line, const std::string& cell, size_t width, Table::Align align) {
  const size_t padding = width - std::min(width, display_width(cell));
  if (align == Table::Align::kRight) line.append(padding, ' ');
  line += cell;
  if (align == Table::Align::kLeft) line.append(padding, ' ');
}

std::string without_trailing_spaces(std::string line) {
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

}  // namespace

size_t display_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::vector<std::string> fold(const std::string& text, size_t width) {
  std::vector<std::string> lines(1);
  size_t begin = 0;
  while (begin < text.size()) {
    if (text[begin] == '\n') {
      lines.emplace_back();
      ++begin;
      continue;
    }
    const size_t end = std::min(text.find_first_of(" \n", begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    std::string& line = lines.back();
    if (!line.empty() && width > 0 && display_width(line) + 1 + display_width(word) > width)
      lines.push_back(word);
    else
      line += (line.empty() ? "" : " ") + word;
    begin = end < text.size() && text[end] == ' ' ? end + 1 : end;
  }
  return lines;
}

size_t terminal_width(std::FILE* file) {
  winsize size{};
  if (isatty(fileno(file)) == 0 || ioctl(fileno(file), TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
}

std::string Table::render(size_t width) const {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    widths.push_back(display_width(columns_[c].title));
    for (const auto& row : rows_)
      if (c < row.size())
        for (const std::string& line : fold(row[c], 0)) widths[c] = std::max(widths[c], display_width(line));
  }
  size_t before_last = 0;
  for (size_t c = 0; c + 1 < widths.size(); ++c) before_last += widths[c] + kGap;
  if (width > 0 && !widths.empty()) {
    const size_t room = std::max(width > before_last ? width - before_last : 0, kNarrowestFold);
    widths.back() = std::min(widths.back(), room);
  }
  std::string text;
  const auto add = [&](const std::vector<std::string>& cells) {
    std::vector<std::vector<std::string>> folded;
    size_t height = 1;
    for (size_t c = 0; c < columns_.size(); ++c) {
      folded.push_back(fold(c < cells.size() ? cells[c] : "", c + 1 == columns_.size() ? widths[c] : 0));
      height = std::max(height, folded.back().size());
    }
    for (size_t row = 0; row < height; ++row) {
      std::string line;
      for (size_t c = 0; c < columns_.size(); ++c) {
        append_padded(line, row < folded[c].size() ? folded[c][row] : "", widths[c], columns_[c].align);
        if (c + 1 < columns_.size()) line.append(kGap, ' ');
      }
      text += without_trailing_spaces(line) + "\n";
    }
  };
  std::vector<std::string> titles, rules;
  for (size_t c = 0; c < columns_.size(); ++c) {
    titles.push_back(columns_[c].title);
    rules.emplace_back(widths[c], '-');
  }
  add(titles);
  add(rules);
  for (const auto& row : rows_) add(row);
  return text;
}

void Table::print(std::FILE* file) const {
  const std::string text = render(terminal_width(file));
  std::fwrite(text.data(), 1, text.size(), file);
}

}  // namespace sextant::cli
