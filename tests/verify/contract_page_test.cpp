// docs/contract.md: every promise names a test for each device, or a reason, and those tests exist.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace sextant {
namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string all_tests() {
  std::string text;
  for (const char* folder : {"/tests", "/python/tests"})
    for (const auto& entry : std::filesystem::recursive_directory_iterator(SEXTANT_SOURCE_DIR + std::string(folder)))
      if (entry.path().extension() == ".cpp" || entry.path().extension() == ".py") text += read_file(entry.path());
  return text;
}

// "Suite.Name" of C++, or a function of Python.
bool exists(const std::string& tests, const std::string& name) {
  const size_t dot = name.find('.');
  if (dot == std::string::npos) return tests.find(fmt::format("def {}(", name)) != std::string::npos;
  return tests.find(fmt::format("({}, {})", name.substr(0, dot), name.substr(dot + 1))) != std::string::npos;
}

TEST(ContractPage, EveryPromiseHasItsTests) {
  const std::string page = read_file(SEXTANT_SOURCE_DIR "/docs/contract.md"), tests = all_tests();
  std::istringstream lines(page);
  int promises = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("| ", 0) != 0 || line.rfind("| promise", 0) == 0) continue;
    ++promises;
    SCOPED_TRACE(line);
    std::vector<std::string> cells;
    std::istringstream row(line.substr(1));
    for (std::string cell; std::getline(row, cell, '|');) cells.push_back(cell.substr(1, cell.size() - 2));
    ASSERT_EQ(cells.size(), 4u);
    for (size_t i = 1; i < 4; ++i) {
      const std::string& cell = cells[i];
      if (cell.rfind("- (", 0) == 0) {  // a footnote gives the reason
        EXPECT_NE(page.find(fmt::format("\n{}. ", cell.substr(3, cell.find(')') - 3))), std::string::npos) << cell;
        continue;
      }
      ASSERT_GT(cell.size(), 2u);
      EXPECT_TRUE(cell.front() == '`' && cell.back() == '`') << cell;
      EXPECT_TRUE(exists(tests, cell.substr(1, cell.size() - 2))) << cell;
    }
  }
  EXPECT_GE(promises, 20);
}

}  // namespace
}  // namespace sextant
