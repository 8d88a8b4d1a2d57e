#include "hip/isa/program.h"

#include <cstring>
#include <regex>
#include <sstream>

namespace sextant::hip::isa {
namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

bool parse_register(const std::string& text, Operand* operand) {
  static const std::map<std::string, std::pair<int, int>> kNamed = {
      {"vcc", {kVcc, 2}},      {"vcc_lo", {kVcc, 1}},       {"vcc_hi", {kVcc + 1, 1}}, {"exec", {kExec, 2}},
      {"exec_lo", {kExec, 1}}, {"exec_hi", {kExec + 1, 1}}, {"m0", {kM0, 1}}};
  operand->kind = Operand::Kind::kScalar;
  if (const auto named = kNamed.find(text); named != kNamed.end()) {
    operand->index = named->second.first;
    operand->count = named->second.second;
    return true;
  }
  static const std::regex kRegister(R"(([sv])(?:(\d+)|\[(\d+):(\d+)\]))");
  std::smatch match;
  if (!std::regex_match(text, match, kRegister)) return false;
  if (match[1] == "v") operand->kind = Operand::Kind::kVector;
  operand->index = std::stoi(match[2].matched ? match[2] : match[3]);
  operand->count = match[2].matched ? 1 : std::stoi(match[4]) - operand->index + 1;
  return true;
}

bool parse_operand(std::string text, Operand* operand) {
  if (text == "off") {
    operand->kind = Operand::Kind::kOff;
    return true;
  }
  static const std::regex kNumber(R"(-?(0x[0-9a-f]+|\d+))"), kFloat(R"(-?\d+\.\d+)");
  operand->kind = Operand::Kind::kConstant;
  if (std::regex_match(text, kNumber)) {
    operand->constant = static_cast<uint64_t>(std::stoll(text, nullptr, 0));
    return true;
  }
  if (std::regex_match(text, kFloat)) {
    operand->constant = bits_of(std::stof(text));
    return true;
  }
  if (text.front() == '-') {
    operand->negate = true;
    text.erase(0, 1);
  }
  if (text.size() > 2 && text.front() == '|' && text.back() == '|') {
    operand->absolute = true;
    text = text.substr(1, text.size() - 2);
  }
  return parse_register(text, operand);
}

// "v_add_u32_e32 v1, v2, v3 offset:4" without the comment.
bool parse_instruction(const std::string& text, Instruction* out) {
  out->text = text;
  std::istringstream words(text);
  words >> out->name;
  for (const char* suffix : {"_e32", "_e64", "_sdwa"})
    if (out->name.ends_with(suffix)) out->name.resize(out->name.size() - std::strlen(suffix));
  std::string rest;
  std::getline(words, rest);
  static const std::regex kModifier(R"((\w+)[:(](\[[-\d,]+\]|\w+)\)?)");
  static const std::regex kRegisters(R"([sva]\[\d+:\d+\])");
  std::string operands;
  std::istringstream parts(rest);
  for (std::string word; parts >> word;) {
    std::smatch match;
    const std::string bare = word.back() == ',' ? word.substr(0, word.size() - 1) : word;
    if (!std::regex_search(bare, kRegisters) && std::regex_match(bare, match, kModifier)) {
      out->modifiers[match[1]] = match[2];
    } else {
      operands += word;
    }
  }
  std::istringstream list(operands);
  for (std::string item; std::getline(list, item, ',');) {
    Operand operand;
    if (!parse_operand(item, &operand)) return false;
    out->operands.push_back(operand);
  }
  return true;
}

}  // namespace

Program parse_program(const std::string& text, const std::string& name) {
  Program program;
  std::map<int64_t, int> index_of;
  std::vector<std::pair<size_t, int64_t>> branches;
  int64_t start = -1;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find(" <" + name + ">:") != std::string::npos) {
      start = std::stoll(line, nullptr, 16);
      continue;
    }
    if (start < 0) continue;
    if (line.empty() || line[0] != '\t') {
      if (line.find(">:") != std::string::npos) break;
      continue;
    }
    const size_t comment = line.find("//");
    if (comment == std::string::npos) continue;
    Instruction instruction;
    if (!parse_instruction(line.substr(1, comment - 1), &instruction)) {
      program.fault = "cannot read: " + line.substr(1, comment - 1);
      return program;
    }
    instruction.address = std::stoll(line.substr(comment + 2), nullptr, 16);
    index_of[instruction.address] = static_cast<int>(program.code.size());
    if (const size_t at = line.rfind("+0x"); at != std::string::npos && line.back() == '>')
      branches.emplace_back(program.code.size(), start + std::stoll(line.substr(at + 1), nullptr, 16));
    else if (line.back() == '>' && instruction.name.find("branch") != std::string::npos)
      branches.emplace_back(program.code.size(), start);
    program.code.push_back(std::move(instruction));
  }
  for (const auto& [at, target] : branches) {
    if (index_of.count(target) == 0) {
      program.fault = "a branch leaves the kernel: " + program.code[at].text;
      return program;
    }
    program.code[at].target = index_of[target];
  }
  if (program.code.empty()) program.fault = "no kernel " + name;
  return program;
}

}  // namespace sextant::hip::isa
