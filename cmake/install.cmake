# make install: the program with its shell completions, and liblonggen with the headers of
# include/longgen as a CMake package.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# One archive of every room that the public headers reach, from the objects that the rooms have
# already compiled; those who link it see no room.
set(rooms base tensor pattern backend model formats tokenizer infer api)
set(objects)
foreach(room ${rooms})
  list(APPEND objects $<TARGET_OBJECTS:longgen_${room}>)
endforeach()
add_library(longgen_library STATIC ${objects})
set_target_properties(longgen_library PROPERTIES OUTPUT_NAME longgen EXPORT_NAME longgen
                      LINKER_LANGUAGE CXX)
target_compile_features(longgen_library INTERFACE cxx_std_20)
target_include_directories(longgen_library INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(longgen_library PRIVATE fmt::fmt spdlog::spdlog Threads::Threads
                      PkgConfig::XXHASH PkgConfig::SENTENCEPIECE PkgConfig::PCRE2
                      PkgConfig::UTF8PROC)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/longgen)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/longgenConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/longgenConfig.cmake
                              INSTALL_DESTINATION ${package})
# Before 1.0 every minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/longgenConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)

install(TARGETS longgen RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS longgen_library EXPORT longgen ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT longgen NAMESPACE longgen:: DESTINATION ${package} FILE longgenTargets.cmake)
install(FILES ${PROJECT_BINARY_DIR}/longgenConfig.cmake
              ${PROJECT_BINARY_DIR}/longgenConfigVersion.cmake DESTINATION ${package})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/longgen DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The program writes its own completions.
install(CODE "
  set(program \"${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/longgen\")
  set(share \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATAROOTDIR}\")
  foreach(pair bash:bash-completion/completions/longgen zsh:zsh/site-functions/_longgen
               fish:fish/vendor_completions.d/longgen.fish)
    string(REPLACE : \";\" pair \${pair})
    list(GET pair 0 shell)
    list(GET pair 1 file)
    execute_process(COMMAND \${program} completion \${shell} OUTPUT_VARIABLE text
                    COMMAND_ERROR_IS_FATAL ANY)
    file(WRITE \${share}/\${file} \"\${text}\")
    message(STATUS \"Installing: \${share}/\${file}\")
  endforeach()")
